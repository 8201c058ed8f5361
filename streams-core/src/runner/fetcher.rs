//! The fetcher: the one task of a subscription that talks to the driver.
//!
//! It fetches while there is room, settles what is done, keeps leases up, lets retries come due,
//! opens the subscription anew when it fails, and carries out the shutdown.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::shared::{FetcherWaits, Shared};
use crate::{
    Assignment, Capabilities, Delivery, Error, ErrorKind, ReadOptions, Reader, Received, Result,
    SettleReport, Settlement, Subscription,
};

/// Most messages asked for at once.
const MAX_FETCH: usize = 256;
/// As many settlements are sent without waiting for more.
const SETTLE_AT: usize = 256;
/// When fetching has stopped for want of room, it goes on with this share of the limit free.
const ROOM_SHARE: usize = 4;
/// How long a message may wait behind a handler that blocks its thread.
const STUCK_AFTER: Duration = Duration::from_millis(5);
/// What handlers cancelled at the shutdown deadline have to end by themselves.
const CANCEL_GRACE: Duration = Duration::from_millis(20);
/// When settling has failed during the shutdown: the pause before it is tried again.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
/// How long a subscription that is being given up may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
            match self.wait(sleep, true, false).await {
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

    /// Does what is due. An error here means that the subscription cannot go on.
    async fn attend(&mut self) -> Result<()> {
        let now = Instant::now();
        {
            let mut pool = self.shared.lock();
            pool.dispatcher.fire(now);
            self.shared.wake_if_needed(&mut pool);
        }
        self.unstick(now);
        self.settle(now, false).await?;
        self.keep_leases(now).await;
        Ok(())
    }

    /// Waits for the driver (where fetching is allowed and there is room), for a worker's report,
    /// for the clock and for the shutdown.
    async fn wait(&mut self, sleep: &mut Pin<Box<Sleep>>, fetch: bool, drain: bool) -> Woken {
        let until = {
            let mut pool = self.shared.lock();
            let until = self.next_time(&pool.dispatcher, fetch);
            let room = pool.dispatcher.room();
            let full = fetch && room == 0;
            // What came while this was being looked at.
            let unsettled = pool.dispatcher.unsettled() > 0 && self.times.settle.is_none();
            if unsettled || (drain && pool.dispatcher.running() == 0) {
                return Woken::Look;
            }
            pool.fetcher_waits = FetcherWaits {
                asleep: true,
                settlements: self.times.settle.is_none(),
                room: full.then_some((self.shared.settings.max_in_flight / ROOM_SHARE).max(1)),
                until,
                drain,
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
            _ = self.stop.changed(), if fetch => Woken::Look,
            () = self.shared.fetcher.notified() => Woken::Look,
            () = sleep.as_mut(), if until.is_some() => Woken::Look,
            received = receive(subscription, max, buffer) => Woken::Received(received),
        };
        self.shared.lock().fetcher_waits = FetcherWaits::default();
        woken
    }

    fn next_time(
        &self,
        dispatcher: &super::dispatcher::Dispatcher,
        fetch: bool,
    ) -> Option<Instant> {
        let retry = if fetch { dispatcher.next_retry() } else { None };
        [
            retry,
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
            }
            Ok(Received::Revoking(going)) => self.revoke(&going, sleep).await,
            Ok(Received::Lost(gone)) => {
                tracing::warn!(stream = %self.options.stream, ?gone, "partitions lost");
                let lost = self.shared.lock().dispatcher.lose_partitions(&gone);
                self.shared.cancel(&lost);
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
        let lost = self.shared.lock().dispatcher.lose_partitions(going);
        self.shared.cancel(&lost);
    }

    /// Waits until everything fetched is settled, retries included, or the shutdown comes.
    async fn drain(&mut self, sleep: &mut Pin<Box<Sleep>>) {
        loop {
            let done = {
                let pool = self.shared.lock();
                pool.dispatcher.in_flight() == 0 && pool.dispatcher.unsettled() == 0
            };
            if (done && self.settlements.is_empty()) || self.is_stopping() {
                return;
            }
            if self.attend().await.is_err() {
                return;
            }
            let until = {
                let mut pool = self.shared.lock();
                let until = self.next_time(&pool.dispatcher, true);
                if pool.dispatcher.in_flight() == 0 {
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

    /// Sends settlements: at once where the driver can without waiting, else when there are many,
    /// when they have waited long enough, when nothing is left to wait for, or when `all` says so.
    async fn settle(&mut self, now: Instant, all: bool) -> Result<()> {
        let idle = {
            let mut pool = self.shared.lock();
            pool.dispatcher.take_settlements(&mut self.settlements);
            pool.dispatcher.in_flight() == 0
        };
        if self.settlements.is_empty() {
            self.times.settle = None;
            return Ok(());
        }
        if !all && self.times.settle_again.is_some_and(|again| again > now) {
            self.times.settle = self.times.settle_again;
            return Ok(());
        }
        if let Some(result) = self.subscription.try_settle(&mut self.settlements) {
            return self.settled(result, now).await;
        }
        let due = *self
            .times
            .settle
            .get_or_insert(now + self.shared.settings.settle_linger);
        if all || idle || due <= now || self.settlements.len() >= SETTLE_AT {
            let result = self.subscription.settle(&mut self.settlements).await;
            return self.settled(result, now).await;
        }
        Ok(())
    }

    async fn settled(&mut self, result: Result<SettleReport>, now: Instant) -> Result<()> {
        match result {
            Ok(report) => {
                self.times.settle = None;
                self.times.settle_again = None;
                self.times.settle_failures = 0;
                if !report.lost.is_empty() {
                    tracing::warn!(
                        stream = %self.options.stream, lost = report.lost.len(),
                        "settled too late: the messages are delivered again"
                    );
                    self.shared.lock().dispatcher.counts.lost += report.lost.len() as u64;
                }
                // A driver that leaves some without an error gets them again a little later.
                if !self.settlements.is_empty() {
                    self.times.settle = Some(
                        now + self
                            .shared
                            .settings
                            .settle_linger
                            .max(Duration::from_millis(1)),
                    );
                    self.times.settle_again = self.times.settle;
                }
                Ok(())
            }
            Err(error) if error.is_retryable() && self.times.settle_failures < 5 => {
                self.times.settle_failures += 1;
                let delay = self
                    .shared
                    .settings
                    .reconnect
                    .delay(self.times.settle_failures);
                tracing::warn!(
                    stream = %self.options.stream, error = %error, ?delay,
                    "settling failed; trying again"
                );
                self.times.settle_again = Some(now + delay);
                self.times.settle = self.times.settle_again;
                Ok(())
            }
            Err(error) => self.reconnect(error).await,
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
            }
        }
        let ready = pool.dispatcher.ready() > 0 && self.shared.can_wake(&pool);
        if ready && self.times.watched_taken == pool.taken {
            self.shared.wake_one(&mut pool);
        }
        self.times.watched_taken = pool.taken;
        self.times.watch = (ready || !hostages.is_empty()).then(|| now + STUCK_AFTER);
        self.times.watched = hostages;
    }

    fn plan_heartbeat(&mut self, now: Instant) {
        let end = self.shared.lock().dispatcher.first_lease_end();
        // A third of what is left, so that two heartbeats may fail before the lease is lost.
        self.times.heartbeat = end.map(|end| now + end.saturating_duration_since(now) / 3);
    }

    /// Extends the leases of what is in flight; tells handlers whose lease is lost.
    async fn keep_leases(&mut self, now: Instant) {
        if self.times.heartbeat.is_none_or(|heartbeat| heartbeat > now) {
            return;
        }
        let ended = {
            let mut pool = self.shared.lock();
            let ended = pool.dispatcher.leases_ended(now);
            let lost = pool.dispatcher.lose(&ended);
            (ended, lost)
        };
        self.shared.cancel(&ended.1);
        if !ended.0.is_empty() {
            tracing::warn!(stream = %self.options.stream, lost = ended.0.len(), "leases ran out");
        }
        let longest = self.shared.settings.longest_lease;
        let (length, ids) = {
            let dispatcher = &self.shared.lock().dispatcher;
            let length = dispatcher.lease_length();
            (length, dispatcher.leases_ending(now + length, now, longest))
        };
        if !ids.is_empty() {
            match self.subscription.extend(&ids, length).await {
                Ok(report) => {
                    let mut pool = self.shared.lock();
                    pool.dispatcher.extended(&ids, now + length);
                    let lost = pool.dispatcher.lose(&report.lost);
                    drop(pool);
                    self.shared.cancel(&lost);
                }
                Err(error) => tracing::warn!(
                    stream = %self.options.stream, error = %error, "leases cannot be extended"
                ),
            }
        }
        self.plan_heartbeat(Instant::now());
        // Leases at their longest are only waited for, without asking again and again.
        let soon = Instant::now() + Duration::from_millis(1);
        self.times.heartbeat = self.times.heartbeat.map(|at| at.max(soon));
    }

    /// Opens the subscription anew, with backoff, until it works, the shutdown comes, or the error
    /// is one that trying again cannot mend.
    async fn reconnect(&mut self, mut error: Error) -> Result<()> {
        let mut attempt = 0;
        let _ = timeout(Duration::from_secs(1), self.subscription.close()).await;
        self.settlements.clear();
        self.buffer.clear();
        self.times = Times::default();
        {
            let mut pool = self.shared.lock();
            for (worker, _) in self.shared.hostages(&pool) {
                self.shared.reclaim(&mut pool, worker, None);
            }
            pool.dispatcher.lose_all();
        }
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

    /// Shuts down in order; see [`Bus::shutdown`](crate::Bus::shutdown).
    async fn shut_down(&mut self, sleep: &mut Pin<Box<Sleep>>) {
        let deadline = (*self.stop.borrow()).unwrap_or_else(Instant::now);
        self.shared.stop(Instant::now());
        let _ = self.settle_or_drop(deadline).await;
        self.finish_running(deadline, sleep).await;
        if self.shared.lock().dispatcher.running() > 0 {
            self.shared.cancel_all();
            self.finish_running(Instant::now() + CANCEL_GRACE, sleep)
                .await;
            self.shared.abort();
        }
        let _ = self.settle_or_drop(deadline).await;
        let patience = patience(deadline);
        match timeout(patience, self.subscription.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(stream = %self.options.stream, error = %error, "the subscription did not close cleanly");
            }
            Err(_) => {
                tracing::warn!(stream = %self.options.stream, ?patience, "closing the subscription took too long");
            }
        }
        self.changed.notify_waiters();
    }

    /// Waits for running handlers until `end`, settling what they finish.
    async fn finish_running(&mut self, end: Instant, sleep: &mut Pin<Box<Sleep>>) {
        loop {
            let now = Instant::now();
            if self.shared.lock().dispatcher.running() == 0 || now >= end {
                return;
            }
            let _ = self.settle_or_drop(end).await;
            self.keep_leases(now).await;
            let until = {
                let mut pool = self.shared.lock();
                if pool.dispatcher.running() == 0 {
                    return;
                }
                let until = [Some(end), self.times.heartbeat, self.times.settle]
                    .into_iter()
                    .flatten()
                    .min();
                pool.fetcher_waits = FetcherWaits {
                    asleep: true,
                    settlements: self.times.settle.is_none(),
                    room: None,
                    until: None,
                    drain: true,
                };
                until
            };
            if let Some(until) = until {
                sleep.as_mut().reset(until.max(now));
            }
            tokio::select! {
                () = self.shared.fetcher.notified() => {}
                () = sleep.as_mut() => {}
            }
            self.shared.lock().fetcher_waits = FetcherWaits::default();
        }
    }

    /// Settles everything, within the time there is. What cannot be settled is delivered again.
    async fn settle_or_drop(&mut self, deadline: Instant) -> Result<()> {
        self.shared
            .lock()
            .dispatcher
            .take_settlements(&mut self.settlements);
        if self.settlements.is_empty() {
            return Ok(());
        }
        let result = match self.subscription.try_settle(&mut self.settlements) {
            Some(result) => result,
            None => match timeout(
                patience(deadline),
                self.subscription.settle(&mut self.settlements),
            )
            .await
            {
                Ok(result) => result,
                Err(_) => Err(Error::new(ErrorKind::Timeout, "settling took too long")),
            },
        };
        // What failed is tried once more a little later, if there is still something to wait for.
        let left = !self.settlements.is_empty();
        self.times.settle = left.then(|| Instant::now() + SETTLE_AGAIN);
        match result {
            Ok(report) => {
                self.shared.lock().dispatcher.counts.lost += report.lost.len() as u64;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(stream = %self.options.stream, error = %error, "settling failed during shutdown");
                Err(error)
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

/// At least a moment, so that a deadline gone by does not lose what a healthy backend would take.
fn patience(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .clamp(Duration::from_secs(1), CLOSE_TIMEOUT)
}

/// The error of a subscription that ended by itself, to be taken once.
pub(crate) type EndError = Mutex<Option<Error>>;
