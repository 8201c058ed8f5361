//! Which relay is at which part of the work: a partition of the table, or a shard of its stream.
//!
//! A relay is a member of those of its outbox as long as it counts on; who does not count for the
//! length of a lease is gone, and its parts are free. Nobody compares clocks: each measures by its own
//! for how long another has not counted. Shares are fair by themselves: who has more than its part of
//! the parts lets some go, who has less takes free ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;
use streams_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{code, error};
use crate::item::{Item, get_number, get_text, item, number, text};
use crate::outbox::Outbox;
use crate::table::TTL;
use crate::{DRIVER, DynamoDb};

const MEMBER: &str = "member-";
const OWNER: &str = "owned_by";
const BEAT: &str = "beat_count";
const CHECKPOINT: &str = "read_up_to";
const DONE: &str = "is_done";
const REFUSED: Option<&str> = Some("ConditionalCheckFailedException");

/// After how long DynamoDB deletes a member that nobody has missed, in seconds.
const FORGOTTEN: u64 = 24 * 3600;

/// A part of the work, as the table has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) owner: Option<String>,
    /// Up to which record of a shard all is done.
    pub(crate) checkpoint: Option<String>,
    /// The shard is closed, and all of it is done.
    pub(crate) done: bool,
}

/// What the table says.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) parts: HashMap<String, Part>,
    /// Who is alive, this one among them.
    pub(crate) members: HashSet<String>,
}

impl View {
    /// Whether a part is nobody's.
    pub(crate) fn is_free(&self, part: &str) -> bool {
        let owner = self.parts.get(part).and_then(|part| part.owner.as_ref());
        owner.is_none_or(|owner| !self.members.contains(owner))
    }
}

/// This relay's leases. Clones are one.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

struct Inner {
    dynamodb: DynamoDb,
    table: String,
    name: String,
    id: String,
    length: Duration,
    /// Until when all leases are surely held: counted from before the beat.
    until: watch::Sender<Option<Instant>>,
}

impl Leases {
    /// A new member, which is not known yet.
    pub(crate) fn new(outbox: &Outbox, kind: &str, length: Duration) -> Self {
        Self(Arc::new(Inner {
            dynamodb: outbox.dynamodb().clone(),
            table: outbox.leases().name.clone(),
            name: format!("{}/{kind}", outbox.table()),
            id: format!("{:032x}", fastrand::u128(..)),
            length,
            until: watch::Sender::new(None),
        }))
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Waits until all leases are held for so long; that is at once, as long as the table answers.
    ///
    /// # Errors
    /// `LeaseLost` if they have run out.
    pub(crate) async fn held_for(&self, time: Duration) -> Result<()> {
        let mut until = self.0.until.subscribe();
        loop {
            let held = until.borrow_and_update().ok_or_else(|| self.lost())?;
            let now = Instant::now();
            if held >= now + time {
                return Ok(());
            }
            if held <= now {
                return Err(self.lost());
            }
            tokio::select! {
                _ = until.changed() => {}
                () = tokio::time::sleep_until(held) => {}
            }
        }
    }

    /// Whether the leases are surely held now.
    pub(crate) fn are_held(&self) -> bool {
        self.0
            .until
            .borrow()
            .is_some_and(|until| until > Instant::now())
    }

    /// They are held no more.
    pub(crate) fn lose(&self) {
        self.0.until.send_replace(None);
    }

    fn lost(&self) -> Error {
        Error::new(
            ErrorKind::LeaseLost,
            "others may have taken over, because this relay did not renew its leases in time",
        )
        .driver(DRIVER)
        .with("relay", &self.0.name)
    }

    fn key(&self, part: &str) -> Item {
        item([("relay_name", text(&self.0.name)), ("part_id", text(part))])
    }

    fn update(
        &self,
        part: &str,
    ) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        let update = self.0.dynamodb.client.update_item();
        update
            .table_name(&self.0.table)
            .set_key(Some(self.key(part)))
    }

    /// Says that this one is alive. `beat` counts from 1.
    async fn beat(&self, beat: u64) -> Result<()> {
        let from = Instant::now();
        let expires = self.0.dynamodb.clock.seconds() + FORGOTTEN;
        let update = self
            .update(&format!("{MEMBER}{}", self.0.id))
            .update_expression(format!("SET {BEAT} = :beat, {TTL} = :expires"))
            .expression_attribute_values(":beat", number(beat))
            .expression_attribute_values(":expires", number(expires));
        let update = match beat {
            1 => update,
            // Who was given up does not come back.
            _ => update.condition_expression(format!("attribute_exists({BEAT})")),
        };
        match update.send().await {
            Ok(_) => {
                self.0.until.send_replace(Some(from + self.0.length));
                Ok(())
            }
            Err(source) if code(&source) == REFUSED => Err(self.lost()),
            Err(source) => Err(self.failed(error(&source, "lease"))),
        }
    }

    /// Everything there is.
    async fn read(&self) -> Result<Vec<Item>> {
        let mut all = Vec::new();
        let mut from = None;
        loop {
            let query = self.0.dynamodb.client.query().table_name(&self.0.table);
            let query = query
                .key_condition_expression("relay_name = :name")
                .expression_attribute_values(":name", text(&self.0.name))
                .consistent_read(true)
                .set_exclusive_start_key(from);
            let found = query.send().await;
            let found = found.map_err(|source| self.failed(error(&source, "lease")))?;
            all.extend(found.items.unwrap_or_default());
            from = found.last_evaluated_key;
            if from.is_none() {
                return Ok(all);
            }
        }
    }

    /// Gives a member up, unless it has counted on. Whether it is gone.
    async fn give_up(&self, member: &str, beat: u64) -> Result<bool> {
        let delete = self
            .0
            .dynamodb
            .client
            .delete_item()
            .table_name(&self.0.table);
        let delete = delete
            .set_key(Some(self.key(&format!("{MEMBER}{member}"))))
            .condition_expression(format!("{BEAT} = :beat"))
            .expression_attribute_values(":beat", number(beat));
        match delete.send().await {
            Ok(_) => Ok(true),
            Err(source) if code(&source) == REFUSED => Ok(false),
            Err(source) => Err(self.failed(error(&source, "lease"))),
        }
    }

    /// Takes a part that is free, as far as `known`. `None` says that another one was faster.
    pub(crate) async fn take(&self, part: &str, known: Option<&Part>) -> Result<Option<Part>> {
        let before = known.and_then(|part| part.owner.as_deref());
        let update = self
            .update(part)
            .update_expression(format!("SET {OWNER} = :me"))
            .condition_expression(format!(
                "(attribute_not_exists({OWNER}) OR {OWNER} = :before OR {OWNER} = :me) \
                 AND attribute_not_exists({DONE})"
            ))
            .expression_attribute_values(":me", text(&self.0.id))
            .expression_attribute_values(":before", text(before.unwrap_or("nobody")))
            .return_values(ReturnValue::AllNew);
        match update.send().await {
            Ok(updated) => Ok(updated.attributes.as_ref().map(of)),
            Err(source) if code(&source) == REFUSED => Ok(None),
            Err(source) => Err(self.failed(error(&source, "lease"))),
        }
    }

    /// Lets a part go.
    pub(crate) async fn release(&self, part: &str) -> Result<()> {
        self.of_mine(part, &format!("REMOVE {OWNER}"), None).await
    }

    /// Keeps up to where all of a shard is done.
    pub(crate) async fn checkpoint(&self, part: &str, at: &str) -> Result<()> {
        self.of_mine(part, &format!("SET {CHECKPOINT} = :at"), Some(at))
            .await
    }

    /// All of a closed shard is done.
    pub(crate) async fn done(&self, part: &str) -> Result<()> {
        let done = format!("SET {DONE} = :at REMOVE {OWNER}");
        self.of_mine(part, &done, Some("yes")).await
    }

    /// # Errors
    /// `LeaseLost` if the part is another's.
    async fn of_mine(&self, part: &str, change: &str, at: Option<&str>) -> Result<()> {
        let update = self
            .update(part)
            .update_expression(change)
            .condition_expression(format!("{OWNER} = :me"))
            .expression_attribute_values(":me", text(&self.0.id));
        let update = match at {
            Some(at) => update.expression_attribute_values(":at", text(at)),
            None => update,
        };
        match update.send().await {
            Ok(_) => Ok(()),
            Err(source) if code(&source) == REFUSED => Err(self.lost()),
            Err(source) => Err(self.failed(error(&source, "lease"))),
        }
    }

    /// Forgets a part that there is no more.
    pub(crate) async fn forget(&self, part: &str) -> Result<()> {
        let delete = self
            .0
            .dynamodb
            .client
            .delete_item()
            .table_name(&self.0.table);
        let deleted = delete.set_key(Some(self.key(part))).send().await;
        deleted.map_err(|source| self.failed(error(&source, "lease")))?;
        Ok(())
    }

    /// Is a member no more. What it has not let go is free at once.
    pub(crate) async fn leave(&self) -> Result<()> {
        self.lose();
        self.forget(&format!("{MEMBER}{}", self.0.id)).await
    }

    fn failed(&self, error: Error) -> Error {
        error.with("table", &self.0.table)
    }
}

/// What this one knows of the others.
pub(crate) struct Members {
    leases: Leases,
    beat: u64,
    /// Up to where each has counted, and since when that is known.
    seen: HashMap<String, (u64, Instant)>,
}

impl Members {
    pub(crate) fn new(leases: Leases) -> Self {
        Self {
            leases,
            beat: 0,
            seen: HashMap::new(),
        }
    }

    /// Says that this one is alive, and reads who else is.
    ///
    /// # Errors
    /// - `LeaseLost` if this one was given up: begin as a new member.
    /// - DynamoDB's.
    pub(crate) async fn beat(&mut self) -> Result<View> {
        self.leases.beat(self.beat + 1).await?;
        self.beat += 1;
        let mut view = View::default();
        let mut beats = HashMap::new();
        for item in self.leases.read().await? {
            let Some(part) = get_text(&item, "part_id") else {
                continue;
            };
            match part.strip_prefix(MEMBER) {
                Some(member) => {
                    beats.insert(
                        member.to_owned(),
                        get_number(&item, BEAT).unwrap_or_default(),
                    );
                }
                None => {
                    view.parts.insert(part.to_owned(), of(&item));
                }
            }
        }
        let now = Instant::now();
        self.seen.retain(|member, _| beats.contains_key(member));
        for (member, beat) in beats {
            let mut alive = member == self.leases.0.id;
            if !alive {
                let known = self.seen.entry(member.clone()).or_insert((beat, now));
                if known.0 != beat {
                    *known = (beat, now);
                }
                let missing = now.duration_since(known.1) >= self.leases.0.length;
                alive = !missing || !self.leases.give_up(&member, beat).await?;
            }
            if alive {
                view.members.insert(member);
            }
        }
        Ok(view)
    }
}

fn of(item: &Item) -> Part {
    Part {
        owner: get_text(item, OWNER).map(str::to_owned),
        checkpoint: get_text(item, CHECKPOINT).map(str::to_owned),
        done: item.contains_key(DONE),
    }
}
