//! Which parts this relay is at: it takes its share, starts a task for each, and lets go what is too
//! much.

use std::collections::HashMap;
use std::sync::Arc;

use streams_core::{ErrorKind, Result};
use streams_outbox::stop::told;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::config::Mode;
use super::leases::{Members, Part, View};
use super::query::{self, is_lost};
use super::session::{DATABASE_BACKOFF, Shared};
use super::shards::{self, Shard};
use super::{is_final, shard};
use crate::outbox::Outbox;

/// How often the shards of the stream are listed, besides when one has ended.
const LISTING: Duration = Duration::from_secs(30);

/// What a task has come to: whether its part is done for good.
type Ended = (String, Result<bool>);

pub(crate) struct Work {
    shared: Arc<Shared>,
    members: Members,
    tasks: JoinSet<Ended>,
    /// The parts at work, each with what tells it to stop.
    running: HashMap<String, watch::Sender<bool>>,
    stream: Option<Stream>,
}

/// The table's stream, as it was listed.
struct Stream {
    arn: String,
    shards: Vec<Shard>,
    listed: Instant,
}

impl Work {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            members: Members::new(shared.leases.clone()),
            shared,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            stream: None,
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// `LeaseLost`, and what does not get better by waiting.
    pub(crate) async fn run(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<()> {
        let mut failures = 0;
        let mut checked = false;
        while !*stopped.borrow() {
            let began = Instant::now();
            let round = async {
                if !checked {
                    self.shared.store.outbox.check().await?;
                    checked = true;
                }
                self.round().await
            };
            let next = match round.await {
                Ok(()) => {
                    failures = 0;
                    began + self.shared.config.lease / 3
                }
                Err(error) if is_lost(&error) || is_final(&error) => return Err(error),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "the relay waits for DynamoDB");
                    Instant::now() + DATABASE_BACKOFF.delay(failures)
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.ended(ended).await?;
                }
                () = told(stopped) => {}
            }
        }
        Ok(())
    }

    /// Gives a sign of life, and takes or lets go parts.
    async fn round(&mut self) -> Result<()> {
        let view = self.members.beat().await?;
        let parts = self.parts(&view).await?;
        let me = self.shared.leases.id().to_owned();
        let share = parts.len().div_ceil(view.members.len().max(1));
        let mine =
            |part: &String| view.parts.get(part).and_then(|part| part.owner.as_ref()) == Some(&me);

        // What was taken from this one, or is there no more.
        let (kept, lost): (Vec<_>, Vec<_>) = self
            .running
            .keys()
            .cloned()
            .partition(|part| mine(part) && parts.contains(part));
        for part in lost {
            self.stop(&part);
        }
        for part in kept.iter().skip(share) {
            self.stop(part);
        }
        let mut count = self.running.len();
        for part in &parts {
            if count >= share {
                break;
            }
            let free = view.is_free(part) || mine(part);
            if self.running.contains_key(part) || !free {
                continue;
            }
            if let Some(taken) = self.shared.leases.take(part, view.parts.get(part)).await? {
                self.start(part, &taken, &view);
                count += 1;
            }
        }
        Ok(())
    }

    /// The parts that may be worked at now.
    async fn parts(&mut self, view: &View) -> Result<Vec<String>> {
        let outbox = &self.shared.store.outbox;
        if self.shared.mode == Mode::Query {
            return Ok(query::parts(outbox.partitions().await?));
        }
        let open = |stream: &Stream| !shards::open(&stream.shards, view).is_empty();
        let known = self.stream.take().filter(open);
        let stream = match known {
            Some(stream) if stream.listed.elapsed() < LISTING => stream,
            known => {
                let (arn, shards) = list(outbox, known).await?;
                for part in shards::gone(&shards, view) {
                    if !self.running.contains_key(&part) {
                        self.shared.leases.forget(&part).await?;
                    }
                }
                let listed = Instant::now();
                Stream {
                    arn,
                    shards,
                    listed,
                }
            }
        };
        let parts = shards::open(&stream.shards, view);
        self.stream = Some(stream);
        Ok(parts)
    }

    fn start(&mut self, part: &str, taken: &Part, view: &View) {
        let (stop, stopped) = watch::channel(false);
        self.running.insert(part.to_owned(), stop);
        let (shared, name) = (self.shared.clone(), part.to_owned());
        tracing::info!(part, "the relay takes a part");
        match &self.stream {
            None => {
                self.tasks.spawn(async move {
                    let ended = query::run(shared, name.clone(), stopped).await;
                    (name, ended)
                });
            }
            Some(stream) => {
                let start = shards::start(part, taken, &stream.shards, &view.parts);
                let arn = stream.arn.clone();
                self.tasks.spawn(async move {
                    let ended = shard::run(shared, name.clone(), arn, start, stopped).await;
                    (name, ended)
                });
            }
        }
    }

    fn stop(&self, part: &str) {
        if let Some(stop) = self.running.get(part) {
            stop.send_replace(true);
        }
    }

    /// A task has ended: its part is done, or let go.
    async fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) -> Result<()> {
        let (part, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.running.remove(&part);
        let leases = &self.shared.leases;
        let settled = match ended {
            Ok(true) => {
                tracing::info!(part, "all of a shard is done");
                leases.done(&part).await
            }
            Ok(false) => leases.release(&part).await,
            Err(error) if is_lost(&error) => {
                tracing::warn!(%error, part, "the relay loses a part");
                // The shards may be others by now.
                if let Some(stream) = &mut self.stream {
                    stream.shards.clear();
                }
                leases.release(&part).await
            }
            Err(error) => return Err(error),
        };
        match settled {
            Err(error) if is_lost(&error) => tracing::debug!(%error, part, "it was lost before"),
            Err(error) => {
                // It is still this one's: the next round begins it again where it ended.
                tracing::warn!(%error, part, "a part could not be let go");
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Finishes the rows it is at, and lets everything go.
    pub(crate) async fn end(&mut self) {
        let parts: Vec<_> = self.running.keys().cloned().collect();
        for part in parts {
            self.stop(&part);
        }
        // The leases last while what was begun is finished: a write takes at most half of one.
        while !self.tasks.is_empty() {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = self.ended(ended).await {
                        tracing::warn!(%error, "a part ended with an error");
                    }
                }
                () = sleep(self.shared.config.lease / 3) => {
                    if let Err(error) = self.members.beat().await {
                        tracing::debug!(%error, "no sign of life could be given");
                    }
                }
            }
        }
        if let Err(error) = self.shared.leases.leave().await {
            // They run out by themselves.
            tracing::debug!(%error, "the relay could not take its leave");
        }
    }
}

/// The stream and its shards. At the beginning, or when all known shards are closed, the stream may be
/// another one.
async fn list(outbox: &Outbox, known: Option<Stream>) -> Result<(String, Vec<Shard>)> {
    if let Some(stream) = known {
        match shards::list(outbox, &stream.arn).await {
            Ok(shards) => return Ok((stream.arn, shards)),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
    }
    let arn = outbox.stream().await?;
    let shards = shards::list(outbox, &arn).await?;
    Ok((arn, shards))
}
