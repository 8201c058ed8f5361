//! Waiting inside a layer, before a handler runs.

use std::future::{Future, pending};
use std::time::Duration;

use streams_core::{Input, Outcome};
use tokio::time::{Instant, sleep_until};

/// Timers are this exact: a wait ends that much before the deadline that would cut it off.
const MARGIN: Duration = Duration::from_millis(1);

/// Waits for `ready`. `None` when the deliveries are cancelled first, or when their deadline comes
/// first: they are then to be [given back](released), for running into the deadline would count as
/// a failure of a handler that never ran.
pub(crate) async fn unless_over<I: Input, T>(
    input: &I,
    ready: impl Future<Output = T>,
) -> Option<T> {
    let Some(first) = input.items().first() else {
        return Some(ready.await);
    };
    // The deliveries of a batch share their worker, and so their cancellation and deadline.
    let cancelled = first.cancelled();
    tokio::select! {
        biased;
        () = cancelled.wait() => None,
        value = ready => Some(value),
        () = before(first.deadline()) => None,
    }
}

/// What becomes of deliveries that were not let through.
pub(crate) fn released<I: Input>(input: &I) -> I::Output {
    input.output(|_| Ok(Outcome::Release))
}

async fn before(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.checked_sub(MARGIN).unwrap_or(deadline)).await,
        None => pending().await,
    }
}
