//! The inbox: which messages a group has handled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::{Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use streams_core::{Claim, ClaimId, DeduplicationStorage, Error, MessageId, Result, async_trait};
use tokio::sync::OnceCell;

use crate::error::{Failure, code, error};
use crate::item::{Item, get_text, item, number, text};
use crate::table::{TTL, Table, built};
use crate::{DRIVER, DynamoDb};

/// The keys are those of the Go library.
const GROUP: &str = "worker_id";
const MESSAGE: &str = "message_id";
/// Ours. Items of the Go library have no claim: they are of messages that were handled.
const CLAIM: &str = "claim";
/// Ours: when it ends, in milliseconds. The TTL has seconds, and DynamoDB deletes when it comes to it.
const EXPIRES: &str = "expires";

/// Most bytes of a group's name: DynamoDB takes as many in a partition key.
const LONGEST_GROUP: usize = 2048;

/// Remembers which messages a group has handled. Cheap to clone; clones are one inbox.
///
/// It serves in two ways; take one for a group:
/// - **Exactly once**: [`first_time`](Inbox::first_time) is an item for the transaction in which the
///   handler does its own work.
/// - As a [`DeduplicationStorage`] for the middleware of that name, where the handler's work is not in
///   DynamoDB.
///
/// The table is that of the Go library: a message that a Go service has handled is known here, and the
/// other way round (Go takes one that is in progress for handled). What expires is by the clock of
/// DynamoDB, as its answers tell it.
///
/// ```no_run
/// use std::sync::Arc;
/// use streams_dynamodb::{DynamoDb, Inbox};
/// # use streams_core::{Context, Message, message_fn, Outcome, Layer};
/// # async fn layer() -> streams_core::Result<()> {
/// let dynamodb = DynamoDb::builder().region("eu-west-1").build().await?;
/// let inbox = Inbox::builder(dynamodb).table("billing-inbox").build()?;
/// inbox.migrate().await?;
/// let deduplication = streams_middleware::Deduplication::new(Arc::new(inbox));
/// # let _ = deduplication;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Inbox(Arc<Inner>);

struct Inner {
    dynamodb: DynamoDb,
    table: Table,
    retention: Duration,
    checked: OnceCell<()>,
}

/// Builds an [`Inbox`].
#[must_use = "a builder makes nothing until `build`"]
#[derive(Debug, Clone)]
pub struct InboxBuilder {
    dynamodb: DynamoDb,
    table: String,
    retention: Duration,
}

impl InboxBuilder {
    /// Sets the table; the default is `streams_inbox`.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Sets for how long handled messages are remembered in the exactly-once mode; the default is 60
    /// minutes, as in the Go library. Longer than the time in which the backend may bring a message
    /// again. (As a [`DeduplicationStorage`] it is told each time.)
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The inbox. Nothing is asked of DynamoDB yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a name that no table can have, or
    /// a retention of zero.
    pub fn build(self) -> Result<Inbox> {
        if self.retention.is_zero() {
            return Err(Error::invalid_config(
                "the inbox's retention is 0, so nothing would be remembered; make it as long as \
                 duplicates may come",
            )
            .driver(DRIVER));
        }
        Ok(Inbox(Arc::new(Inner {
            dynamodb: self.dynamodb,
            table: Table::new(&self.table, GROUP, MESSAGE)?,
            retention: self.retention,
            checked: OnceCell::new(),
        })))
    }
}

impl Inbox {
    /// Starts an inbox.
    pub fn builder(dynamodb: DynamoDb) -> InboxBuilder {
        InboxBuilder {
            dynamodb,
            table: "streams_inbox".to_owned(),
            retention: Duration::from_secs(60 * 60),
        }
    }

    /// Makes the table where it is missing, billed by request, and lets DynamoDB delete what has
    /// expired. Several processes may do so at once. `false` says that it was there.
    ///
    /// # Errors
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when it has another schema.
    /// - [`Permission`](streams_core::ErrorKind::Permission) when the caller may not make tables.
    pub async fn migrate(&self) -> Result<bool> {
        self.0.table.create(&self.0.dynamodb, false).await
    }

    /// Checks that the table is there, with the keys that it should have.
    ///
    /// # Errors
    /// - [`NotFound`](streams_core::ErrorKind::NotFound) when it is not there.
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when it has another schema.
    pub async fn check(&self) -> Result<()> {
        self.0.table.check(&self.0.dynamodb).await.map(drop)
    }

    /// Deletes the table and all that was remembered; `false` says that there was none.
    ///
    /// # Errors
    /// When DynamoDB refuses.
    pub async fn delete_table(&self) -> Result<bool> {
        self.0.table.delete(&self.0.dynamodb).await
    }

    /// An item that marks a message as handled by a group, to be written in the transaction with the
    /// handler's own work. If the message was handled before, the transaction is cancelled, with
    /// `ConditionalCheckFailed` as the reason at the place of this item: leave the work, and
    /// acknowledge the message.
    ///
    /// # Errors
    /// As [`check`](Inbox::check), at the first call; `InvalidConfig` for a group's name that DynamoDB
    /// does not take.
    pub async fn first_time(&self, group: &str, id: &MessageId) -> Result<TransactWriteItem> {
        self.ready().await?;
        let mark = self.item(group, id, None, self.0.retention)?;
        let put = Put::builder()
            .table_name(&self.0.table.name)
            .set_item(Some(mark))
            .condition_expression(format!(
                "attribute_not_exists({MESSAGE}) OR attribute_exists({CLAIM}) OR {FREE}"
            ))
            .set_expression_attribute_values(Some(self.now()))
            .build()
            .map_err(built)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// Once for all: the table is as it should be, and the time is known.
    async fn ready(&self) -> Result<()> {
        self.0.checked.get_or_try_init(|| self.check()).await?;
        Ok(())
    }

    /// The values of [`FREE`].
    fn now(&self) -> Item {
        let now = self.0.dynamodb.clock.millis();
        item([(":now", number(now)), (":seconds", number(now / 1000))])
    }

    fn item(
        &self,
        group: &str,
        id: &MessageId,
        claim: Option<ClaimId>,
        length: Duration,
    ) -> Result<Item> {
        let mut this = key(group, id)?;
        let (expires, ttl) = self.until(length);
        this.insert(EXPIRES.to_owned(), number(expires));
        this.insert(TTL.to_owned(), number(ttl));
        if let Some(claim) = claim {
            this.insert(CLAIM.to_owned(), text(hex(claim)));
        }
        Ok(this)
    }

    /// When something ends that lasts so long, in milliseconds and as a TTL: not before.
    fn until(&self, length: Duration) -> (u64, u64) {
        // DynamoDB takes 38 digits, and the TTL those of a date.
        const LONGEST: u64 = 100 * 365 * 24 * 3600 * 1000;
        let length = u64::try_from(length.as_millis()).unwrap_or(LONGEST);
        let expires = self.0.dynamodb.clock.millis() + length.clamp(1, LONGEST);
        (expires, expires.div_ceil(1000))
    }

    fn failed<E>(&self, source: &Failure<E>, doing: &'static str) -> Error
    where
        E: aws_sdk_dynamodb::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        error(source, doing).with("table", &self.0.table)
    }
}

/// It has expired, though DynamoDB has not deleted it yet. The Go library writes seconds alone; `<` on
/// an attribute that is not there is false.
const FREE: &str =
    "expires <= :now OR (attribute_not_exists(expires) AND expiration_time <= :seconds)";

#[async_trait]
impl DeduplicationStorage for Inbox {
    /// One request: a put under the condition that nobody has it.
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim> {
        self.ready().await?;
        let claim = ClaimId(fastrand::u128(..));
        let put = self.0.dynamodb.client.put_item();
        let put = put
            .table_name(&self.0.table.name)
            .set_item(Some(self.item(group, id, Some(claim), expiry)?))
            // One that is ours already: the answer to it was lost, and the SDK has sent it again.
            .condition_expression(format!(
                "attribute_not_exists({MESSAGE}) OR {FREE} OR {CLAIM} = :claim"
            ))
            .set_expression_attribute_values(Some(self.now()))
            .expression_attribute_values(":claim", text(hex(claim)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(source) = put.send().await else {
            return Ok(Claim::Acquired(claim));
        };
        let refused = source.as_service_error().and_then(|error| {
            match error {
            aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(
                refused,
            ) => Some(refused),
            _ => None,
        }
        });
        let Some(refused) = refused else {
            return Err(self.failed(&source, "claim"));
        };
        let there = refused.item();
        let done = there.is_some_and(|there| get_text(there, CLAIM).is_none());
        Ok(if done { Claim::Done } else { Claim::InProgress })
    }

    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool> {
        self.ready().await?;
        let (expires, ttl) = self.until(retention);
        // It is kept as `committed` for when the answer is lost, and the SDK sends it again.
        let update = self.0.dynamodb.client.update_item();
        let update = update
            .table_name(&self.0.table.name)
            .set_key(Some(key(group, id)?))
            .update_expression(format!(
                "SET {EXPIRES} = :expires, {TTL} = :ttl, committed = :claim REMOVE {CLAIM}"
            ))
            .condition_expression(format!("{CLAIM} = :claim OR committed = :claim"))
            .expression_attribute_values(":claim", text(hex(claim)))
            .expression_attribute_values(":expires", number(expires))
            .expression_attribute_values(":ttl", number(ttl));
        match update.send().await {
            Ok(_) => Ok(true),
            Err(source) if code(&source) == Some(REFUSED) => Ok(false),
            Err(source) => Err(self.failed(&source, "commit")),
        }
    }

    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()> {
        self.ready().await?;
        let delete = self.0.dynamodb.client.delete_item();
        let delete = delete
            .table_name(&self.0.table.name)
            .set_key(Some(key(group, id)?))
            .condition_expression(format!("{CLAIM} = :claim"))
            .expression_attribute_values(":claim", text(hex(claim)));
        match delete.send().await {
            Ok(_) => Ok(()),
            Err(source) if code(&source) == Some(REFUSED) => Ok(()),
            Err(source) => Err(self.failed(&source, "release")),
        }
    }
}

const REFUSED: &str = "ConditionalCheckFailedException";

fn key(group: &str, id: &MessageId) -> Result<Item> {
    if !(1..=LONGEST_GROUP).contains(&group.len()) {
        return Err(Error::invalid_config(
            "the name of the group is empty or longer than DynamoDB takes; shorten it",
        )
        .driver(DRIVER)
        .with("bytes", group.len())
        .with("limit", LONGEST_GROUP));
    }
    Ok(item([(GROUP, text(group)), (MESSAGE, text(id.as_str()))]))
}

fn hex(claim: ClaimId) -> String {
    format!("{:032x}", claim.0)
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("table", &self.0.table)
            .field("retention", &self.0.retention)
            .finish_non_exhaustive()
    }
}

/// What the table is of, for the tests of its readers and writers in other languages.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_go_library() {
        assert_eq!(
            (GROUP, MESSAGE, TTL),
            ("worker_id", "message_id", "expiration_time")
        );
    }

    #[tokio::test]
    async fn bad_settings_are_refused() {
        let dynamodb = DynamoDb::builder().region("eu-west-1").build();
        let dynamodb = dynamodb.await.unwrap();
        let inbox = || Inbox::builder(dynamodb.clone());
        assert!(inbox().build().is_ok());
        assert!(inbox().retention(Duration::ZERO).build().is_err());
        for name in ["", "ab", "a b c", &"x".repeat(256)] {
            assert!(inbox().table(name).build().is_err(), "{name}");
        }
        let id = MessageId::new("1").unwrap();
        assert!(key("", &id).is_err() && key(&"g".repeat(2049), &id).is_err());
    }
}
