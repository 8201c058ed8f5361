//! The shutdown, in its order.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, timeout};

use super::Fetcher;
use super::settle::is_of_no_more_use;
use crate::runner::shared::FetcherWaits;
use crate::{Error, ErrorKind, Result};

/// What handlers cancelled at the shutdown deadline have to end by themselves.
const CANCEL_GRACE: Duration = Duration::from_millis(20);
/// When settling has failed during the shutdown: the pause before it is tried again.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
/// How long a subscription that is being given up may take to close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Fetcher {
    /// Shuts down in order; see [`Bus::shutdown`](crate::Bus::shutdown).
    pub(super) async fn shut_down(&mut self, sleep: &mut Pin<Box<Sleep>>) {
        let deadline = (*self.stop.borrow()).unwrap_or_else(Instant::now);
        self.shared.stop(Instant::now());
        let _ = self.settle_or_drop(deadline).await;
        self.finish_running(deadline, sleep).await;
        if self.shared.lock().dispatcher.running() > 0 {
            self.shared.cancel_all();
            self.finish_running(Instant::now() + CANCEL_GRACE, sleep)
                .await;
            let abandoned = self.shared.lock().dispatcher.running();
            if abandoned > 0 {
                tracing::warn!(
                    stream = %self.options.stream, abandoned,
                    "handlers have not ended by the shutdown deadline and are abandoned, their messages \
                     unacknowledged; raise the deadline, or end them when `Context::cancelled` says so"
                );
            }
            self.shared.abort();
        }
        let _ = self.settle_or_drop(deadline).await;
        let held = self.held.clone();
        self.revoking(&held).await;
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
    pub(super) async fn finish_running(&mut self, end: Instant, sleep: &mut Pin<Box<Sleep>>) {
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
    pub(super) async fn settle_or_drop(&mut self, deadline: Instant) -> Result<()> {
        self.take_settled();
        if self.is_settled() {
            self.times.settle = None;
            return Ok(());
        }
        let result = self
            .settle_within(patience(deadline))
            .await
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Timeout, "settling took too long")));
        // What failed is tried once more a little later, if there is still something to wait for.
        let left = !self.is_settled();
        self.times.settle = left.then(|| Instant::now() + SETTLE_AGAIN);
        match result {
            Ok(report) => {
                self.shared.lock().dispatcher.counts.lost += report.lost.len() as u64;
                Ok(())
            }
            Err(error) => {
                if is_of_no_more_use(&error) {
                    self.doubt();
                }
                tracing::warn!(stream = %self.options.stream, error = %error, "settling failed during shutdown");
                Err(error)
            }
        }
    }
}

/// At least a moment, so that a deadline gone by does not lose what a healthy backend would take.
fn patience(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .clamp(Duration::from_secs(1), CLOSE_TIMEOUT)
}
