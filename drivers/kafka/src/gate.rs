//! What a writer was given, so that `flush` and `close` can wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Lets writes begin until it is closed, and knows which have not ended.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// Rises with each flush: what has begun before is waited for.
    generation: u64,
    /// How many writes of a generation have not ended.
    open: BTreeMap<u64, usize>,
}

/// A write that has begun. It ends when the last clone is dropped.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    generation: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a write, unless closed.
    pub(crate) fn pass(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let generation = state.generation;
        *state.open.entry(generation).or_default() += 1;
        Some(Pass {
            gate: self.clone(),
            generation,
        })
    }

    /// Waits until all that has begun so far has ended.
    pub(crate) async fn flush(&self) {
        let last = {
            let mut state = self.lock();
            state.generation += 1;
            state.generation - 1
        };
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self
                .lock()
                .open
                .keys()
                .next()
                .is_none_or(|first| *first > last)
            {
                return;
            }
            ended.await;
        }
    }

    /// Lets nothing more begin, and waits until all has ended.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        self.flush().await;
    }
}

impl Clone for Pass {
    fn clone(&self) -> Self {
        *self.gate.lock().open.entry(self.generation).or_default() += 1;
        Self {
            gate: self.gate.clone(),
            generation: self.generation,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        let Some(open) = state.open.get_mut(&self.generation) else {
            return;
        };
        *open -= 1;
        if *open == 0 {
            state.open.remove(&self.generation);
            drop(state);
            self.gate.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flush_waits_for_what_began_before_it_only() {
        let gate = Arc::new(Gate::default());
        let before = gate.pass().unwrap();
        let twice = before.clone();
        let mut flush = std::pin::pin!(gate.flush());
        assert!(futures_poll(flush.as_mut()).await.is_none());
        let _after = gate.pass().unwrap();
        drop(before);
        assert!(futures_poll(flush.as_mut()).await.is_none());
        drop(twice);
        flush.await;
    }

    #[tokio::test]
    async fn a_closed_gate_lets_nothing_begin_and_ends_what_has() {
        let gate = Arc::new(Gate::default());
        let open = gate.pass().unwrap();
        let mut close = std::pin::pin!(gate.close());
        assert!(futures_poll(close.as_mut()).await.is_none());
        assert!(gate.pass().is_none());
        drop(open);
        close.await;
        gate.close().await;
    }

    /// What a future gives without waiting.
    async fn futures_poll<F: Future + Unpin>(future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
