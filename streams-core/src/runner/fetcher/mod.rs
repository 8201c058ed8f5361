//! The fetcher: the one task of a subscription that talks to the driver.
//!
//! It fetches while there is room, settles what is done, keeps leases up, lets retries come due,
//! opens the subscription anew when it fails, and carries out the shutdown.

mod leases;
mod partitions;
mod settle;
mod shutdown;

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::dispatcher::Dispatcher;
use super::shared::{FetcherWaits, Shared};
use crate::{
    Assignment, Capabilities, Delivery, Error, PartitionListener, ReadOptions, Reader, Received,
    Result, Settlement, Subscription, TransactionPart,
};

/// Most messages asked for at once.
const MAX_FETCH: usize = 256;
/// When fetching has stopped for want of room, it goes on with this share of the limit free.
const ROOM_SHARE: usize = 4;
/// How often it is said that a handler blocks.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long a message may wait behind a handler that blocks its thread.
const STUCK_AFTER: Duration = Duration::from_millis(5);

pub(crate) struct Fetcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) options: ReadOptions,
    pub(crate) subscription: Box<dyn Subscription>,
    pub(crate) capabilities: Capabilities,
    /// The shutdown deadline, once there is one.
    pub(crate) stop: watch::Receiver<Option<Instant>>,
    /// Tests wait for this to look at the runner's state.
    pub(crate) changed: Arc<Notify>,
    pub(crate) buffer: Vec<Delivery>,
    pub(crate) settlements: Vec<Settlement>,
    /// In place of settlements, where deliveries are settled in transactions.
    pub(crate) parts: Vec<TransactionPart>,
    /// It cannot be told what became of a transaction: nothing more is settled after it.
    pub(crate) in_doubt: bool,
    pub(crate) listener: Option<Arc<dyn PartitionListener>>,
    /// Partitions the listener was told it has.
    pub(crate) held: Vec<Assignment>,
    /// Partitions that were revoked and did not come back.
    pub(crate) revoked: Vec<Assignment>,
    pub(crate) times: Times,
}

/// When the fetcher has something to do by the clock.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Settlements gathered so far are sent.
    settle: Option<Instant>,
    /// After settling failed: not before this.
    settle_again: Option<Instant>,
    settle_failures: u32,
    /// Leases are extended.
    heartbeat: Option<Instant>,
    /// Who has not moved since it was last looked at counts as stuck.
    watch: Option<Instant>,
    watched_taken: u64,
    watched: Vec<(u16, u64)>,
    /// When it was last said that a handler blocks.
    warned: Option<Instant>,
}

/// Why the fetcher went on.
enum Woken {
    /// Something is to be looked at.
    Look,
    /// The driver has delivered.
    Received(Result<Received>),
}

impl Fetcher {
    /// Runs until shutdown, the end of a bounded read, or an error that trying again cannot mend.
    pub(crate) async fn run(mut self) -> Result<()> {
        let mut sleep = Box::pin(sleep_until(Instant::now()));
        let result = self.fetch(&mut sleep).await;
        self.shut_down(&mut sleep).await;
        result
    }

    async fn fetch(&mut self, sleep: &mut Pin<Box<Sleep>>) -> Result<()> {
        loop {
            if self.is_stopping() {
                return Ok(());
            }
            self.attend().await?;
            if let Some(max) = self.room()
                && let Some(received) = self.subscription.try_receive(max, &mut self.buffer)
            {
                if self.received(received, sleep).await? {
                    return Ok(());
                }
                continue;
            }
            match self.wait(sleep, true).await {
                Woken::Look => {}
                Woken::Received(received) => {
                    if self.received(received, sleep).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether the shutdown has begun, or every handle of the bus is gone.
    fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some() || self.stop.has_changed().is_err()
    }

    /// How much may be fetched now.
    fn room(&self) -> Option<NonZeroUsize> {
        let room = self.shared.lock().dispatcher.room();
        NonZeroUsize::new(room.min(MAX_FETCH))
    }

    /// How much of the limit is to be free before fetching goes on.
    fn share(&self) -> usize {
        (self.shared.settings.max_in_flight / ROOM_SHARE).max(1)
    }

    /// Does what is due. An error here means that the subscription cannot go on.
    async fn attend(&mut self) -> Result<()> {
        let now = Instant::now();
        {
            let mut pool = self.shared.lock();
            pool.dispatcher.fire(now);
            if self.shared.wake_if_needed(&mut pool) {
                self.shared.let_go();
            }
        }
        self.unstick(now);
        self.settle(now, false).await?;
        self.keep_leases(now).await;
        Ok(())
    }

    /// Waits for the driver (where `fetch` allows it and there is room), for a worker's report, for
    /// the clock and for the shutdown.
    async fn wait(&mut self, sleep: &mut Pin<Box<Sleep>>, fetch: bool) -> Woken {
        let until = {
            let mut pool = self.shared.lock();
            let until = self.next_time(&pool.dispatcher);
            let room = pool.dispatcher.room();
            let full = fetch && room == 0;
            // What came while this was being looked at.
            let unsettled = pool.dispatcher.unsettled() > 0 && self.times.settle.is_none();
            if unsettled {
                return Woken::Look;
            }
            pool.fetcher_waits = FetcherWaits {
                asleep: true,
                settlements: self.times.settle.is_none(),
                room: full.then(|| self.share()),
                until,
                drain: false,
            };
            until
        };
        // Whoever waits for the state to change (a test) may look now.
        self.changed.notify_waiters();
        if let Some(until) = until
            && sleep.deadline() != until
        {
            sleep.as_mut().reset(until);
        }
        let max = if fetch { self.room() } else { None };
        let (subscription, buffer) = (&mut self.subscription, &mut self.buffer);
        let woken = tokio::select! {
            biased;
            _ = self.stop.changed() => Woken::Look,
            () = self.shared.fetcher.notified() => Woken::Look,
            () = sleep.as_mut(), if until.is_some() => Woken::Look,
            received = receive(subscription, max, buffer) => Woken::Received(received),
        };
        self.shared.lock().fetcher_waits = FetcherWaits::default();
        woken
    }

    fn next_time(&self, dispatcher: &Dispatcher) -> Option<Instant> {
        [
            dispatcher.next_retry(),
            self.times.settle,
            self.times.heartbeat,
            self.times.watch,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes what the driver delivered. `true` says that there will be no more.
    async fn received(
        &mut self,
        received: Result<Received>,
        sleep: &mut Pin<Box<Sleep>>,
    ) -> Result<bool> {
        match received {
            Ok(Received::Deliveries) => {
                let now = Instant::now();
                self.refuse_revoked();
                self.shared.push(&mut self.buffer, now);
                if self.times.watch.is_none() {
                    self.times.watch = Some(now + STUCK_AFTER);
                    self.times.watched.clear();
                    self.times.watched_taken = u64::MAX;
                }
                if self.capabilities.leases && self.times.heartbeat.is_none() {
                    self.plan_heartbeat(now);
                }
            }
            Ok(Received::Assigned(assigned)) => {
                tracing::debug!(stream = %self.options.stream, ?assigned, "partitions assigned");
                let is_back =
                    |gone: &Assignment| assigned.iter().any(|a| a.partition == gone.partition);
                self.revoked.retain(|gone| !is_back(gone));
                self.assigned(assigned, sleep).await?;
            }
            Ok(Received::Revoking(going)) => self.revoke(&going, sleep).await,
            Ok(Received::Lost(gone)) => {
                tracing::warn!(stream = %self.options.stream, ?gone, "partitions lost");
                self.let_partitions_go(&gone);
                self.lost(&gone).await;
            }
            Ok(Received::End) => {
                self.drain(sleep).await;
                return Ok(true);
            }
            Err(error) => self.reconnect(error).await?,
        }
        Ok(false)
    }

    /// Lets running handlers of partitions that are about to go finish, within bounds, and settles
    /// them.
    async fn revoke(&mut self, going: &[Assignment], sleep: &mut Pin<Box<Sleep>>) {
        let end = Instant::now() + self.shared.settings.revoke_grace;
        loop {
            let now = Instant::now();
            {
                let mut pool = self.shared.lock();
                for (worker, _) in self.shared.hostages(&pool) {
                    self.shared.reclaim(&mut pool, worker, None);
                }
                if pool.dispatcher.hold_partitions(going) == 0 {
                    break;
                }
                self.shared.wake_if_needed(&mut pool);
            }
            if now >= end || self.settle(now, false).await.is_err() {
                break;
            }
            // Any report may be the one.
            self.shared.lock().fetcher_waits = FetcherWaits {
                asleep: true,
                settlements: true,
                room: Some(1),
                until: Some(end),
                drain: true,
            };
            sleep.as_mut().reset(end);
            tokio::select! {
                () = self.shared.fetcher.notified() => {}
                () = sleep.as_mut() => {}
            }
            self.shared.lock().fetcher_waits = FetcherWaits::default();
        }
        let _ = self.settle(Instant::now(), true).await;
        self.let_partitions_go(going);
        self.revoked.extend_from_slice(going);
        self.revoking(going).await;
    }

    /// Drops what a driver delivers of partitions it has revoked. What was not started of them was
    /// dropped then: settling a later one would move the position past it, and lose it.
    fn refuse_revoked(&mut self) {
        if self.revoked.is_empty() {
            return;
        }
        let before = self.buffer.len();
        let is_ours = |one: &Delivery| !self.revoked.contains(&Assignment::of(one.token.id()));
        self.buffer.retain(is_ours);
        let refused = before - self.buffer.len();
        if refused > 0 {
            tracing::error!(
                stream = %self.options.stream, refused,
                "the driver delivers messages of partitions it has revoked; they are dropped, and come \
                 again to whoever has the partition now"
            );
        }
    }

    /// Nothing of these partitions can be settled any more.
    fn let_partitions_go(&mut self, gone: &[Assignment]) {
        let lost = self.shared.lock().dispatcher.lose_partitions(gone);
        self.shared.cancel(&lost);
        self.parts
            .retain(|part| !gone.contains(&Assignment::of(part.settlement.token.id())));
        self.check_all_settled();
    }

    /// Waits until everything fetched is settled, retries included, or the shutdown comes.
    async fn drain(&mut self, sleep: &mut Pin<Box<Sleep>>) {
        loop {
            let done = {
                let pool = self.shared.lock();
                pool.dispatcher.in_flight() == 0 && pool.dispatcher.unsettled() == 0
            };
            if (done && self.is_settled()) || self.is_stopping() {
                return;
            }
            if self.attend().await.is_err() {
                return;
            }
            let until = {
                let mut pool = self.shared.lock();
                let until = self.next_time(&pool.dispatcher);
                if pool.dispatcher.in_flight() == 0 && until.is_none() {
                    continue;
                }
                pool.fetcher_waits = FetcherWaits {
                    asleep: true,
                    settlements: true,
                    room: Some(1),
                    until,
                    drain: true,
                };
                until
            };
            self.changed.notify_waiters();
            if let Some(until) = until {
                sleep.as_mut().reset(until);
            }
            tokio::select! {
                _ = self.stop.changed() => {}
                () = self.shared.fetcher.notified() => {}
                () = sleep.as_mut(), if until.is_some() => {}
            }
            self.shared.lock().fetcher_waits = FetcherWaits::default();
        }
    }

    /// Looks for messages that wait behind a handler that blocks its thread, and has other workers
    /// take them.
    fn unstick(&mut self, now: Instant) {
        if self.times.watch.is_none_or(|watch| watch > now) {
            return;
        }
        let mut pool = self.shared.lock();
        let hostages = self.shared.hostages(&pool);
        for (worker, steps) in &hostages {
            if self.times.watched.contains(&(*worker, *steps)) {
                self.shared.reclaim(&mut pool, *worker, Some(*steps));
                if self.times.warned.is_none_or(|last| now - last > WARN_EVERY) {
                    self.times.warned = Some(now);
                    tracing::warn!(
                        stream = %self.options.stream,
                        "a handler blocks its thread; others take over what waited behind it. Move \
                         blocking work to `tokio::task::spawn_blocking`"
                    );
                }
            }
        }
        let ready = pool.dispatcher.ready() > 0 && self.shared.can_wake(&pool);
        if ready && self.times.watched_taken == pool.taken && self.shared.wake_one(&mut pool) {
            self.shared.let_go();
        }
        self.times.watched_taken = pool.taken;
        self.times.watch = (ready || !hostages.is_empty()).then(|| now + STUCK_AFTER);
        self.times.watched = hostages;
    }

    /// Opens the subscription anew, with backoff, until it works, the shutdown comes, or the error
    /// is one that trying again cannot mend.
    async fn reconnect(&mut self, mut error: Error) -> Result<()> {
        let mut attempt = 0;
        let _ = timeout(Duration::from_secs(1), self.subscription.close()).await;
        self.settlements.clear();
        self.parts.clear();
        self.in_doubt = false;
        self.buffer.clear();
        self.revoked.clear();
        self.times = Times::default();
        {
            let mut pool = self.shared.lock();
            for (worker, _) in self.shared.hostages(&pool) {
                self.shared.reclaim(&mut pool, worker, None);
            }
            pool.dispatcher.lose_all();
        }
        let held = self.held.clone();
        self.lost(&held).await;
        loop {
            if !error.is_retryable() {
                tracing::error!(stream = %self.options.stream, error = %error, "the subscription has ended");
                return Err(error.with("stream", &self.options.stream));
            }
            attempt += 1;
            let delay = self.shared.settings.reconnect.delay(attempt);
            tracing::warn!(
                stream = %self.options.stream, error = %error, attempt, ?delay,
                "the subscription failed; opening it anew"
            );
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = self.stop.changed() => return Ok(()),
            }
            let subscribed = tokio::select! {
                subscribed = self.reader.subscribe(&self.options) => subscribed,
                _ = self.stop.changed() => return Ok(()),
            };
            match subscribed {
                Ok(subscription) => {
                    self.subscription = subscription;
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }
}

async fn receive(
    subscription: &mut Box<dyn Subscription>,
    max: Option<NonZeroUsize>,
    buffer: &mut Vec<Delivery>,
) -> Result<Received> {
    match max {
        Some(max) => subscription.receive(max, buffer).await,
        None => poll_fn(|_| Poll::Pending).await,
    }
}

/// The error of a subscription that ended by itself, to be taken once.
pub(crate) type EndError = Mutex<Option<Error>>;
