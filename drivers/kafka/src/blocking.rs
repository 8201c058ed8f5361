//! Calls of the client library that block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult};
use streams_core::Error;

use crate::config::DRIVER;
use crate::error::is_passing;

/// How long the first attempt may block, and with it a runtime that shuts down. Later ones may take
/// longer, for brokers that are far away or busy.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// Between two attempts: some fail at once.
const BACKOFF: Duration = Duration::from_millis(20);

/// Calls again after errors that may pass, until `timeout` is up. Blocks.
pub(crate) fn patiently<T>(
    timeout: Duration,
    mut call: impl FnMut(Duration) -> KafkaResult<T>,
) -> KafkaResult<T> {
    let until = Instant::now() + timeout;
    loop {
        match call(until.saturating_duration_since(Instant::now())) {
            Err(error) if is_passing(&error) && Instant::now() + BACKOFF < until => {
                thread::sleep(BACKOFF);
            }
            other => return other,
        }
    }
}

/// The runtime shuts down.
#[derive(Debug)]
pub(crate) struct Ended;

impl From<Ended> for Error {
    fn from(_: Ended) -> Self {
        Self::closed("the runtime that runs this driver").driver(DRIVER)
    }
}

/// Calls on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Ended> {
    tokio::task::spawn_blocking(call).await.map_err(|_| Ended)
}

/// Calls on a thread that may block, with how long it may, again after errors that may go `away`, until
/// its time is up or nobody waits for it any longer.
pub(crate) async fn attempts<T: Send + 'static>(
    timeout: Duration,
    mut call: impl FnMut(Duration) -> KafkaResult<T> + Send + 'static,
    away: impl Fn(&KafkaError) -> bool + Send + 'static,
) -> Result<KafkaResult<T>, Ended> {
    struct Waiting(Arc<AtomicBool>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let until = Instant::now() + timeout;
    let given_up = Arc::new(AtomicBool::new(false));
    let _waiting = Waiting(given_up.clone());
    blocking(move || {
        let mut attempt = FIRST_ATTEMPT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match call(left.min(attempt)) {
                Err(error) if away(&error) => error,
                other => return other,
            };
            if Instant::now() + BACKOFF >= until || given_up.load(Ordering::Acquire) {
                return Err(error);
            }
            thread::sleep(BACKOFF);
            attempt *= 2;
        }
    })
    .await
}
