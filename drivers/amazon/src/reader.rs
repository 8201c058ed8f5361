//! Reading.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use streams_core::{
    AckToken, Backoff, Capabilities, Delivery, Error, ErrorKind, ExtendReport, ReadOptions, Reader,
    Received, Result, SettleReport, Settlement, StreamName, Subscription, TokenId,
};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::batches::MOST;
use crate::config::DRIVER;
use crate::error::Problem;
use crate::names::Place;
use crate::options::{ARGUMENTS, Plan};
use crate::poll::{Poll, Taken};
use crate::settle::Receipt;
use crate::sqs::Inner;

/// Between requests for messages that fail.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// For this long at least SQS is waited for before the subscription fails.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct SqsReader {
    inner: Arc<Inner>,
}

impl SqsReader {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Reader for SqsReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let failed = |error: Error| {
            let error = error.operation("subscribe");
            error.with("stream", &options.stream)
        };
        options.driver.check(DRIVER, ARGUMENTS).map_err(failed)?;
        if options.group.is_some() {
            return Err(failed(Error::unsupported(
                DRIVER,
                "a queue has no groups: all who read it share its messages; leave the group out, and \
                 give each group a queue of its own",
            )));
        }
        let own = options.driver.get().cloned().unwrap_or_default();
        let plan = Plan::of(options, &own, &self.inner.config).map_err(failed)?;
        // Not as it was known: it may have been deleted since.
        self.inner.queues.forget(&options.stream);
        let queue = self.inner.queues.of(&options.stream).await;
        let queue = queue.map_err(|problem| failed(problem.error("subscribe")))?;
        Ok(subscription(
            self.inner.clone(),
            queue,
            &options.stream,
            plan,
        ))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }
}

/// A subscription to a queue, whose messages are those of a stream.
pub(crate) fn subscription(
    inner: Arc<Inner>,
    queue: Arc<Place>,
    stream: &StreamName,
    plan: Plan,
) -> Box<dyn Subscription> {
    Box::new(Queued {
        poll: Arc::new(Poll {
            inner,
            queue,
            stream: stream.clone(),
            plan,
        }),
        polls: JoinSet::new(),
        asked: 0,
        width: 1,
        taken: VecDeque::new(),
        held: HashMap::new(),
        next: 0,
        failures: 0,
        failing_since: None,
        not_before: None,
        closed: false,
    })
}

/// A subscription to a queue.
struct Queued {
    poll: Arc<Poll>,
    /// Requests for messages under way, each with how many it asked for. They are tasks of their own,
    /// so that what they bring is not lost when `receive` is dropped.
    polls: JoinSet<(usize, Result<Vec<Taken>, Problem>)>,
    /// How many messages they asked for together.
    asked: usize,
    /// How many of them there may be now: more while the queue is full, one when it is empty.
    width: usize,
    /// Taken and not handed out yet.
    taken: VecDeque<Taken>,
    /// Handed out and not settled, by number.
    held: HashMap<u64, Receipt>,
    next: u64,
    /// Requests that failed one after another, and since when.
    failures: u32,
    failing_since: Option<Instant>,
    /// After one has failed: when the next is sent.
    not_before: Option<Instant>,
    closed: bool,
}

impl Queued {
    fn queue(&self) -> &Place {
        &self.poll.queue
    }

    fn hand_out(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) {
        let count = max.get().min(self.taken.len());
        for one in self.taken.drain(..count) {
            let number = self.next;
            self.next += 1;
            let mut delivery = Delivery::new(one.message, AckToken::new(0, 0, number))
                .lease(one.receipt.until)
                .metadata(one.facts);
            delivery.attempt = one.attempt;
            self.held.insert(number, one.receipt);
            out.push(delivery);
        }
    }

    /// Sends requests for what is wanted, full ones where it can be.
    fn ask(&mut self, max: usize) {
        let wanted = max.saturating_sub(self.taken.len());
        while self.polls.len() < self.width {
            let most = wanted.saturating_sub(self.asked).min(MOST);
            // A few messages are not worth a request when others are under way.
            if most == 0 || (most < MOST && !self.polls.is_empty()) {
                return;
            }
            let poll = self.poll.clone();
            self.polls
                .spawn(async move { (most, poll.receive(most).await) });
            self.asked += most;
        }
    }

    /// Takes in what a request has brought.
    fn took(
        &mut self,
        done: Result<(usize, Result<Vec<Taken>, Problem>), JoinError>,
    ) -> Result<()> {
        let (asked, received) = match done {
            Ok(done) => done,
            Err(error) => {
                // Nobody knows what it asked for.
                self.asked = self.polls.len() * MOST;
                return Err(
                    Error::new(ErrorKind::Other, "receiving failed; subscribe again")
                        .operation("receive")
                        .driver(DRIVER)
                        .source(error),
                );
            }
        };
        self.asked = self.asked.saturating_sub(asked);
        match received {
            Ok(messages) => {
                (self.failures, self.failing_since) = (0, None);
                if messages.is_empty() {
                    self.width = 1;
                } else if messages.len() == MOST {
                    self.width = (2 * self.width).min(self.poll.plan.concurrency);
                }
                self.taken.extend(messages);
                Ok(())
            }
            Err(problem) => self.failed(&problem),
        }
    }

    /// What to do about a request that failed: SQS is waited for, as leases last in the meantime.
    fn failed(&mut self, problem: &Problem) -> Result<()> {
        let Poll { plan, stream, .. } = &*self.poll;
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        let patience = plan.visibility_timeout.max(SHORTEST_PATIENCE);
        if !problem.is_retryable() || now - since > patience {
            let error = problem.error("receive").with("stream", stream);
            // One that was deleted is created when the subscription is opened anew.
            let creates = self.poll.inner.config.create_queues.is_some();
            let comes_back = problem.kind == ErrorKind::NotFound && creates;
            let retryable = error.is_retryable() || comes_back;
            return Err(error.retryable(retryable));
        }
        if self.failures == 0 {
            let error = problem.error("receive");
            tracing::warn!(%stream, %error, "receiving failed; trying again");
        }
        self.failures += 1;
        self.width = 1;
        self.not_before = Some(now + BACKOFF.delay(self.failures));
        Ok(())
    }

    /// Gives back what nobody has asked for so long that its lease is half over.
    async fn give_back_stale(&mut self) {
        let enough = Instant::now() + self.poll.plan.visibility_timeout / 2;
        let is_stale = |one: &Taken| one.receipt.until <= enough;
        if !self.taken.front().is_some_and(is_stale) {
            return;
        }
        let stale = self.taken.drain(..).map(|one| one.receipt).collect();
        self.poll.inner.give_back(self.queue(), stale).await;
    }
}

#[async_trait]
impl Subscription for Queued {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if self.closed {
                return Err(Error::closed("the subscription")
                    .operation("receive")
                    .driver(DRIVER));
            }
            while let Some(done) = self.polls.try_join_next() {
                self.took(done)?;
            }
            self.give_back_stale().await;
            let is_paused = self.not_before.is_some_and(|at| at > Instant::now());
            if !is_paused {
                self.ask(max.get());
            }
            if !self.taken.is_empty() {
                self.hand_out(max, out);
                return Ok(Received::Deliveries);
            }
            let pause = self.not_before.filter(|_| is_paused);
            tokio::select! {
                Some(done) = self.polls.join_next() => self.took(done)?,
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            }
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let poll = self.poll.clone();
        let settled = poll
            .inner
            .settle(&poll.queue, &mut self.held, settlements)
            .await;
        settled.map_err(|problem| problem.error("settle").with("stream", &poll.stream))
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let poll = self.poll.clone();
        let extended = poll
            .inner
            .extend(&poll.queue, &mut self.held, deliveries, by)
            .await;
        extended.map_err(|problem| problem.error("extend").with("stream", &poll.stream))
    }

    async fn close(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let taken = self.taken.drain(..).map(|one| one.receipt);
        let held = self.held.drain().map(|(_, receipt)| receipt);
        let back = taken.chain(held).collect();
        let mut polls = std::mem::take(&mut self.polls);
        let poll = self.poll.clone();
        // A request that waits for messages cannot be taken back; what it may yet bring can.
        tokio::spawn(async move {
            while let Some(done) = polls.join_next().await {
                if let Ok((_, Ok(taken))) = done {
                    let receipts = taken.into_iter().map(|one| one.receipt).collect();
                    poll.inner.give_back(&poll.queue, receipts).await;
                }
            }
        });
        self.poll.inner.give_back(self.queue(), back).await;
        Ok(())
    }
}
