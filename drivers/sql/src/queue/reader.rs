//! Reading.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    AckToken, Capabilities, Delivery, Error, ErrorKind, ExtendReport, ReadOptions, Reader,
    Received, Result, SettleAction, SettleReport, Settlement, Subscription, TokenId,
    TransactionPart, async_trait,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::claim::{Clock, Look, Reading, Taken};
use super::config::{SqlQueueOptions, check_start};
use super::settle::{Output, Settling, is_unknown, unknown};
use super::store::{Store, Tries, millis};
use crate::DRIVER;
use crate::database::Database;

/// How long a reader that found nothing waits at first.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

pub(crate) struct QueueReader<DB: Database> {
    store: Arc<Store<DB>>,
    capabilities: Capabilities,
}

impl<DB: Database> QueueReader<DB> {
    pub(crate) fn new(store: Arc<Store<DB>>) -> Self {
        Self {
            capabilities: store.config.capabilities(),
            store,
        }
    }
}

#[async_trait]
impl<DB: Database> Reader for QueueReader<DB> {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        const DOING: &str = "subscribe";
        let own = SqlQueueOptions::of(&options.driver)?;
        let Some(group) = &options.group else {
            return Err(Error::unsupported(
                DRIVER,
                "the queue has no readers without a group; give the subscription one",
            )
            .operation(DOING)
            .with("stream", &options.stream));
        };
        let store = &self.store;
        check_start(&options.start, &self.capabilities)?;
        let open = async {
            let stream = store.stream(&options.stream).await?;
            let group = store.group(stream, group, &options.start).await?;
            Ok((stream, group))
        };
        let opened = store.within(DOING, open).await;
        let (stream, group) =
            opened.map_err(|e| e.operation(DOING).with("stream", &options.stream))?;
        #[cfg(feature = "postgres")]
        {
            store.tell_others();
            store.listen();
        }
        Ok(Box::new(Member {
            wake: store.wake.watch(stream),
            reading: Arc::new(Reading {
                stream,
                name: options.stream.clone(),
                group,
                owner: fastrand::i64(1..),
                lease: own.lease.unwrap_or(store.config.lease),
                clock: Clock::default(),
            }),
            store: store.clone(),
            looking: None,
            taken: VecDeque::new(),
            held: HashMap::new(),
            wait: SHORTEST_WAIT,
            wait_until: None,
            failing_since: None,
            closed: false,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// A member of a group.
struct Member<DB: Database> {
    store: Arc<Store<DB>>,
    reading: Arc<Reading>,
    wake: watch::Receiver<()>,
    /// A look at the tables that is under way. It is a task of its own, so that what it takes is not
    /// lost when `receive` is dropped.
    looking: Option<JoinHandle<Result<Look>>>,
    /// Taken and not handed out yet.
    taken: VecDeque<Taken>,
    /// Handed out and not settled, by the row's id.
    held: HashMap<i64, Held>,
    /// How long to wait when there is nothing.
    wait: Duration,
    wait_until: Option<Instant>,
    /// Since when the database cannot be reached.
    failing_since: Option<Instant>,
    closed: bool,
}

/// A delivery that was handed out.
struct Held {
    attempt: u32,
    /// The hash of its key.
    key: Option<i64>,
}

impl<DB: Database> Member<DB> {
    /// Hands out what was taken.
    fn hand_out(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) {
        let count = max.get().min(self.taken.len());
        for one in self.taken.drain(..count) {
            let (attempt, key) = (one.attempt, one.key);
            self.held.insert(one.id, Held { attempt, key });
            let token = AckToken::new(0, one.attempt, one.id.cast_unsigned());
            let delivery = Delivery::new(one.message, token);
            out.push(delivery.attempt(one.attempt).lease(one.lease));
        }
    }

    /// Gives back what was taken and not handed out for so long that its lease is half over.
    async fn give_back_stale(&mut self) -> Result<()> {
        let enough = Instant::now() + self.reading.lease / 2;
        if self.taken.front().is_none_or(|one| one.lease > enough) {
            return Ok(());
        }
        let released = self.taken.iter().map(|one| one.id).collect();
        self.release(released).await?;
        self.taken.clear();
        Ok(())
    }

    async fn release(&self, ids: Vec<i64>) -> Result<()> {
        let settling = Settling {
            released: ids,
            ..Settling::default()
        };
        self.send(&settling, &[]).await.map(drop)
    }

    async fn send(&self, settling: &Settling, outputs: &[Output<'_>]) -> Result<HashSet<i64>> {
        let store = &self.store;
        let mut tries = Tries::default();
        loop {
            let settle = store.settle(&self.reading, settling, outputs);
            match store.within("settle", settle).await {
                Err(error) if is_unknown(&error) => return Err(error),
                Err(error) if error.kind() == ErrorKind::Timeout && !outputs.is_empty() => {
                    return Err(unknown(error));
                }
                Err(error) if tries.again(&error).await => {}
                done => return done,
            }
        }
    }

    /// The next look at the tables, which goes on if this is dropped.
    async fn look(&mut self, max: usize) -> Result<Look> {
        let looking = self.looking.get_or_insert_with(|| {
            self.wake.mark_unchanged();
            let (store, reading) = (self.store.clone(), self.reading.clone());
            tokio::spawn(async move { store.within("receive", store.look(&reading, max)).await })
        });
        let looked = looking.await;
        self.looking = None;
        looked.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Other, "looking for messages failed")
                .operation("receive")
                .driver(DRIVER)
                .source(error))
        })
    }

    /// Plans the next look, at most `longest` from now.
    fn wait_for(&mut self, longest: Duration) {
        self.wait_until = Some(Instant::now() + self.wait.min(longest));
        self.wait = (2 * self.wait).min(self.store.config.poll.max(SHORTEST_WAIT));
    }

    /// What to do about a look that failed: for as long as leases last, the database is waited for.
    fn look_failed(&mut self, error: Error) -> Result<()> {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        if !error.is_retryable() || now - since > self.reading.lease {
            return Err(error);
        }
        if since == now {
            tracing::warn!(stream = %self.reading.name, %error, "receiving failed; trying again");
        }
        self.wait_for(Duration::MAX);
        Ok(())
    }

    /// Sorts settlements by what becomes of them. Those that are not this reader's any more are left
    /// out.
    fn sort<'a>(&self, settlements: impl Iterator<Item = &'a Settlement>) -> Settling {
        let mut settling = Settling::default();
        let mut last: HashMap<i64, i64> = HashMap::new();
        for settlement in settlements {
            let id = settlement.token.id();
            let Some(held) = self.holds(id) else { continue };
            let row = id.sequence.cast_signed();
            match settlement.action {
                SettleAction::Ack => {
                    settling.done.push(row);
                    if let Some(key) = held.key {
                        let last = last.entry(key).or_insert(row);
                        *last = row.max(*last);
                    }
                }
                SettleAction::Retry { after } => {
                    let after = after.unwrap_or_default();
                    settling.retried.push((row, millis(after)));
                }
                SettleAction::Release => settling.released.push(row),
            }
        }
        if !last.is_empty() {
            let held = self.held.iter().map(|(id, held)| (*id, held.key));
            let taken = self.taken.iter().map(|one| (one.id, one.key));
            for (id, key) in held.chain(taken) {
                let Some(key) = key else { continue };
                if last.get(&key).is_some_and(|last| *last < id) {
                    last.remove(&key);
                }
            }
        }
        settling.keys.extend(last.into_keys());
        settling
    }

    /// A delivery that is this reader's, as far as it knows.
    fn holds(&self, id: TokenId) -> Option<&Held> {
        let held = self.held.get(&id.sequence.cast_signed())?;
        (held.attempt == id.epoch).then_some(held)
    }

    /// Notes that these are settled; reports those that were not this reader's.
    fn settled(&mut self, ids: impl Iterator<Item = TokenId>, own: &HashSet<i64>) -> SettleReport {
        let mut report = SettleReport::default();
        for id in ids {
            let row = id.sequence.cast_signed();
            let was_held = self.holds(id).is_some();
            if was_held {
                self.held.remove(&row);
            }
            if !was_held || !own.contains(&row) {
                report.lost.push(id);
            }
        }
        report
    }
}

#[async_trait]
impl<DB: Database> Subscription for Member<DB> {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if self.closed {
                return Err(Error::closed("the subscription").driver(DRIVER));
            }
            self.give_back_stale().await?;
            if !self.taken.is_empty() {
                self.hand_out(max, out);
                return Ok(Received::Deliveries);
            }
            if self.looking.is_none()
                && let Some(until) = self.wait_until
            {
                tokio::select! {
                    // The queue is there as long as this is, and so is who changes it.
                    _ = self.wake.changed() => self.wait = SHORTEST_WAIT,
                    () = sleep_until(until) => {}
                }
                self.wait_until = None;
            }
            match self.look(max.get()).await {
                Ok(look) => {
                    self.failing_since = None;
                    match look {
                        Look::Taken(taken) => {
                            self.wait = SHORTEST_WAIT;
                            self.taken = taken.into();
                        }
                        Look::Nothing(next) => self.wait_for(next),
                        Look::Busy => self.wait_for(Duration::MAX),
                        Look::Gone => {
                            return Err(Error::new(
                                ErrorKind::NotFound,
                                "the group was deleted while it was read; subscribe again to make \
                                 a new one",
                            )
                            .operation("receive")
                            .driver(DRIVER)
                            .with("stream", &self.reading.name));
                        }
                    }
                }
                Err(error) => self.look_failed(error)?,
            }
        }
    }

    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        let fresh = Instant::now() + self.reading.lease / 2;
        if self.closed || self.taken.front()?.lease <= fresh {
            return None;
        }
        self.hand_out(max, out);
        Some(Ok(Received::Deliveries))
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let settling = self.sort(settlements.iter());
        let own = if settling.is_empty() {
            HashSet::new()
        } else {
            self.send(&settling, &[]).await?
        };
        let ids = settlements.drain(..).map(|one| one.token.id());
        Ok(self.settled(ids, &own))
    }

    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        const DOING: &str = "settle_in_transaction";
        let settling = self.sort(parts.iter().map(|part| &part.settlement));
        let mut outputs = Vec::new();
        for part in parts.iter() {
            let id = part.settlement.token.id();
            if self.holds(id).is_none() {
                continue;
            }
            for message in &part.outputs {
                if let Some(refused) = self.store.config.refuse(message) {
                    return Err(refused.operation(DOING));
                }
                let stream = self.store.stream(message.stream());
                let stream = self.store.within(DOING, stream).await?;
                outputs.push((id.sequence.cast_signed(), stream, message));
            }
        }
        let own = if settling.is_empty() {
            HashSet::new()
        } else {
            self.send(&settling, &outputs).await?
        };
        let ids = parts.drain(..).map(|part| part.settlement.token.id());
        Ok(self.settled(ids, &own))
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let held = deliveries.iter().filter(|id| self.holds(**id).is_some());
        let ids: Vec<_> = held.map(|id| id.sequence.cast_signed()).collect();
        let own = if ids.is_empty() {
            HashSet::new()
        } else {
            let extend = self.store.extend(&self.reading, &ids, millis(by));
            self.store.within("extend", extend).await?
        };
        let mut report = ExtendReport::default();
        let own = |id: &TokenId| own.contains(&id.sequence.cast_signed());
        let lost = deliveries
            .iter()
            .filter(|id| self.holds(**id).is_none() || !own(id));
        report.lost.extend(lost);
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        if let Some(looking) = self.looking.take()
            && let Ok(Ok(Look::Taken(taken))) = looking.await
        {
            self.taken.extend(taken);
        }
        let taken = self.taken.drain(..).map(|one| one.id);
        let ids: Vec<_> = taken.chain(self.held.drain().map(|(id, _)| id)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.release(ids).await
    }
}

impl<DB: Database> Drop for Member<DB> {
    /// What it may be about to take comes again when the lease runs out.
    fn drop(&mut self) {
        if let Some(looking) = self.looking.take() {
            looking.abort();
        }
    }
}
