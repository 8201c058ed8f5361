//! Cancellation of one delivery's handling, without an allocation for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A worker's cancellation flag, used again for each delivery under a new generation. The lowest bit
/// of `state` says cancelled, the rest is the generation.
#[derive(Debug, Default)]
pub(crate) struct CancelCell {
    state: AtomicU64,
    changed: Notify,
}

impl CancelCell {
    /// Starts the next delivery. Contexts of the one before count as cancelled from now on.
    pub(crate) fn begin(&self) -> u64 {
        let next = (self.state.load(Ordering::Relaxed) & !1) + 2;
        self.state.store(next, Ordering::Release);
        next
    }

    /// Cancels whatever is being handled.
    pub(crate) fn cancel_current(&self) {
        self.state.fetch_or(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    fn is_cancelled(&self, generation: u64) -> bool {
        self.state.load(Ordering::Acquire) != generation
    }
}

/// Tells a handler that its work is no longer wanted: the lease is lost, the partition is gone, its
/// deadline has passed, or the shutdown deadline has. Also "cancelled" once the delivery is over.
#[derive(Debug, Clone)]
pub struct Cancelled {
    cell: Arc<CancelCell>,
    generation: u64,
}

impl Cancelled {
    pub(crate) fn new(cell: Arc<CancelCell>, generation: u64) -> Self {
        Self { cell, generation }
    }

    /// Whether it has been cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cell.is_cancelled(self.generation)
    }

    /// Waits until it is cancelled.
    pub async fn wait(&self) {
        loop {
            let mut changed = std::pin::pin!(self.cell.changed.notified());
            changed.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivery_is_cancelled_when_told_so_and_when_it_is_over() {
        let cell = Arc::new(CancelCell::default());
        let first = Cancelled::new(cell.clone(), cell.begin());
        assert!(!first.is_cancelled());
        cell.cancel_current();
        assert!(first.is_cancelled());
        let second = Cancelled::new(cell.clone(), cell.begin());
        assert!(first.is_cancelled() && !second.is_cancelled());
        let waiting = tokio::spawn({
            let second = second.clone();
            async move { second.wait().await }
        });
        tokio::task::yield_now().await;
        cell.cancel_current();
        waiting.await.unwrap();
        assert!(second.is_cancelled());
    }
}
