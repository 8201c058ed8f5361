//! The relay by query, for one partition of the table.
//!
//! Why partitions, and no index over what is ready: a query of the table is consistent, so that no row
//! is seen before one of its key that was committed earlier. An index follows the table one item at a
//! time, in any order. And why from the beginning each time, and no cursor: a row may be committed after
//! later ones were read. What was forwarded is deleted, so the beginning is where the work is.

use std::sync::Arc;

use streams_core::Result;
use streams_outbox::Poll;
use streams_outbox::stop::told;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::is_final;
use super::session::{DATABASE_BACKOFF, Session, Shared, Step};
use crate::outbox::row::ready;

/// How the parts of a relay by query begin.
const PART: &str = "partition-";

/// The parts there are.
pub(crate) fn parts(partitions: u32) -> Vec<String> {
    (0..partitions)
        .map(|number| format!("{PART}{number}"))
        .collect()
}

/// The partition of a part.
pub(crate) fn partition(part: &str) -> String {
    let number = part
        .strip_prefix(PART)
        .and_then(|number| number.parse().ok());
    ready(number.unwrap_or_default())
}

/// Relays a partition until it is told to stop.
///
/// # Errors
/// `LeaseLost`, and what does not get better by waiting.
pub(crate) async fn run(
    shared: Arc<Shared>,
    part: String,
    mut stopped: watch::Receiver<bool>,
) -> Result<bool> {
    let partition = partition(&part);
    let mut notified = shared.store.outbox.notified();
    let mut poll = Poll::new(shared.config.poll.0, shared.config.poll.1);
    let mut session = Session::new(shared, part);
    let mut failures = 0;
    while !*stopped.borrow() {
        notified.mark_unchanged();
        let step = match session.step(&partition, None).await {
            Ok(step) => step,
            Err(error) if is_final(&error) || is_lost(&error) => return Err(error),
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, failures, part = session.part, "the relay waits for DynamoDB");
                tokio::select! {
                    () = sleep(DATABASE_BACKOFF.delay(failures)) => {}
                    () = told(&mut stopped) => {}
                }
                continue;
            }
        };
        failures = 0;
        match step {
            Step::Worked => poll.found(),
            Step::Idle(next) => {
                let until = Instant::now() + poll.empty();
                tokio::select! {
                    () = tokio::time::sleep_until(until.min(next.unwrap_or(until))) => {}
                    _ = notified.changed() => poll.found(),
                    () = told(&mut stopped) => {}
                }
            }
            Step::Down(error) => session.wait(&error, &mut stopped).await,
        }
    }
    Ok(false)
}

/// Whether it is somebody else's part now.
pub(crate) fn is_lost(error: &streams_core::Error) -> bool {
    error.kind() == streams_core::ErrorKind::LeaseLost
}
