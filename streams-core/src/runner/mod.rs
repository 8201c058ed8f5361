//! The runner: everything between a driver's subscription and a handler, written once.
//!
//! - [`fetcher`]: the task that talks to the driver.
//! - [`worker`]: the tasks that run handlers.
//! - [`shared`]: what they share, and how they wake each other.
//! - [`dispatcher`]: the state: in flight, order, retries, settlements.
//! - [`positions`]: what may be committed, for drivers that acknowledge by position.
//! - [`verdict`]: from a handler's result to what becomes of the message.

mod dispatcher;
mod fetcher;
mod positions;
mod settings;
mod shared;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod sync;
mod verdict;
mod worker;

use std::any::Any;
use std::sync::{Arc, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use fetcher::{EndError, Fetcher, Times};
pub use settings::Ordering;
pub(crate) use settings::RunSettings;
use shared::Shared;
pub(crate) use worker::{BatchWorkers, SingleWorkers, Workers};

use crate::bus::{Activity, SubscriptionReport};
use crate::handler::{SubscriptionInfo, catch_panic, panic_text};
use crate::{Error, ErrorKind, PartitionListener, ReadOptions, Reader, Subscription};

/// A subscription that was registered and is to be run.
pub(crate) struct Plan {
    pub(crate) options: ReadOptions,
    pub(crate) settings: RunSettings,
    pub(crate) info: Arc<SubscriptionInfo>,
    pub(crate) workers: Arc<dyn Workers>,
    pub(crate) listener: Option<Arc<dyn PartitionListener>>,
    /// Told when something a test may wait for has changed.
    pub(crate) changed: Arc<Notify>,
    /// Told when the subscription ends by itself.
    pub(crate) ended: Arc<Notify>,
}

/// A subscription that runs.
pub(crate) struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<Option<Instant>>,
    error: Arc<EndError>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Plan {
    /// Runs an open subscription in the background.
    pub(crate) fn run(
        self,
        reader: Arc<dyn Reader>,
        subscription: Box<dyn Subscription>,
    ) -> Arc<Running> {
        let capabilities = reader.capabilities().clone();
        let shared = Shared::new(self.settings, &capabilities, self.info, self.workers);
        let (stop, stopped) = watch::channel(None);
        let fetcher = Fetcher {
            shared: shared.clone(),
            reader,
            options: self.options,
            subscription,
            capabilities,
            stop: stopped,
            changed: self.changed,
            buffer: Vec::new(),
            settlements: Vec::new(),
            parts: Vec::new(),
            in_doubt: false,
            listener: self.listener,
            held: Vec::new(),
            revoked: Vec::new(),
            times: Times::default(),
        };
        let error = Arc::new(EndError::default());
        let ended = self.ended;
        let task = tokio::spawn({
            let error = error.clone();
            let shared = shared.clone();
            async move {
                let run = catch_panic(|| fetcher.run());
                // Ends with the runner; see `Shared::let_go` for what it is good for.
                let ballast = tokio::spawn({
                    let shared = shared.clone();
                    async move { shared.be_ballast().await }
                });
                let end = run.await;
                ballast.abort();
                let end = match end {
                    Ok(end) => end,
                    Err(panic) => {
                        // The driver's: handlers run in tasks of their own.
                        shared.abort();
                        Err(driver_panicked(&shared, &*panic))
                    }
                };
                if let Err(end) = end {
                    *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
                    ended.notify_waiters();
                }
            }
        });
        Arc::new(Running {
            shared,
            stop,
            error,
            task: tokio::sync::Mutex::new(Some(task)),
        })
    }
}

fn driver_panicked(shared: &Shared, panic: &(dyn Any + Send)) -> Error {
    let text = panic_text(panic);
    Error::new(
        ErrorKind::Panic,
        format!("the driver panicked: {text}; the subscription has ended"),
    )
    .driver(shared.info.driver)
    .with("stream", &shared.info.stream)
}

impl Running {
    /// The error that ended it, if it ended by itself and nobody has taken it yet.
    pub(crate) fn take_error(&self) -> Option<Error> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Shuts it down until `deadline` and says what became of its messages.
    pub(crate) async fn shutdown(&self, deadline: Instant) -> SubscriptionReport {
        let _ = self.stop.send(Some(deadline));
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(stream = %self.shared.info.stream, error = %error, "the runner failed");
        }
        let info = &self.shared.info;
        let counts = self.shared.lock().dispatcher.counts;
        let mut report = SubscriptionReport::new(info.stream.clone(), info.group.clone());
        report.acknowledged = counts.acknowledged;
        report.retried = counts.retried;
        report.dead_lettered = counts.dead_lettered;
        report.lost = counts.lost;
        report.in_flight_at_shutdown = counts.in_flight_at_shutdown;
        report.finished = counts.finished;
        report.given_back_to_retry = counts.given_back_to_retry;
        report.released = counts.released;
        report.abandoned = counts
            .in_flight_at_shutdown
            .saturating_sub(counts.finished + counts.given_back_to_retry + counts.released);
        report
    }

    /// What it holds right now.
    pub(crate) fn activity(&self) -> Activity {
        self.shared.lock().dispatcher.activity(Instant::now())
    }
}
