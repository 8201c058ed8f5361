//! Partitions that come and go, and who is told.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Fetcher;
use super::shutdown::CLOSE_TIMEOUT;
use crate::handler::{catch_panic, panic_text};
use crate::runner::shared::FetcherWaits;
use crate::{Assignment, Error, ErrorKind, PartitionListener, Result};

/// What a listener has at least, so that a deadline gone by does not cost what it would have saved.
const SHORTEST: Duration = Duration::from_secs(1);

impl Fetcher {
    /// Partitions have come. Nothing of them is fetched before the listener is ready for it; what
    /// was fetched of others goes on meanwhile.
    pub(super) async fn assigned(
        &mut self,
        assigned: Vec<Assignment>,
        sleep: &mut Pin<Box<Sleep>>,
    ) -> Result<()> {
        let Some(listener) = self.listener.clone() else {
            return Ok(());
        };
        let is_new = |a: &Assignment| !self.held.contains(a);
        let new: Vec<_> = assigned.into_iter().filter(is_new).collect();
        let Some(first) = new.first() else {
            return Ok(());
        };
        self.held.extend_from_slice(&new);
        let mut ready = pin!(catch_panic(|| listener.assigned(&new)));
        loop {
            let ended = tokio::select! {
                biased;
                ended = ready.as_mut() => Some(ended),
                _ = self.wait(sleep, false) => None,
            };
            self.shared.lock().fetcher_waits = FetcherWaits::default();
            match ended {
                Some(Ok(Ok(()))) => return Ok(()),
                Some(Ok(Err(error))) => return self.reconnect(error).await,
                Some(Err(panic)) => return self.reconnect(panicked(panic_text(&*panic))).await,
                None if self.is_stopping() => {
                    self.lost(&new).await;
                    return Ok(());
                }
                None => self.attend().await?,
            }
            if !self.held.contains(first) {
                // The subscription was opened anew meanwhile.
                return Ok(());
            }
        }
    }

    /// Partitions are about to go, and what was handled of them is settled.
    pub(super) async fn revoking(&mut self, going: &[Assignment]) {
        let (going, listener) = self.no_longer_held(going);
        if let Some(listener) = listener {
            self.tell("revoking", || listener.revoking(&going)).await;
        }
    }

    /// Partitions are gone.
    pub(super) async fn lost(&mut self, gone: &[Assignment]) {
        let (gone, listener) = self.no_longer_held(gone);
        if let Some(listener) = listener {
            self.tell("lost", || listener.lost(&gone)).await;
        }
    }

    /// Those of `partitions` that the listener was told of, and it, if there are some. They are held
    /// no more.
    fn no_longer_held(
        &mut self,
        partitions: &[Assignment],
    ) -> (Vec<Assignment>, Option<Arc<dyn PartitionListener>>) {
        let gone = |a: &mut Assignment| partitions.contains(a);
        let gone: Vec<_> = self.held.extract_if(.., gone).collect();
        let listener = self.listener.clone().filter(|_| !gone.is_empty());
        (gone, listener)
    }

    /// Waits for the listener, at a shutdown until its deadline.
    async fn tell<F: Future<Output = ()>>(&mut self, what: &str, hook: impl FnOnce() -> F) {
        let mut stop = self.stop.clone();
        let deadline = async move {
            let at = stop.wait_for(Option::is_some).await.map(|at| *at);
            let shortest = Instant::now() + SHORTEST;
            match at {
                Ok(at) => sleep_until(at.map_or(shortest, |at| at.max(shortest))).await,
                // Nobody is left who could set one.
                Err(_) => sleep(CLOSE_TIMEOUT).await,
            }
        };
        let stream = &self.options.stream;
        tokio::select! {
            biased;
            ended = catch_panic(hook) => {
                if let Err(panic) = ended {
                    tracing::error!(%stream, hook = what, panic = panic_text(&*panic), "the partition listener panicked");
                }
            }
            () = deadline => {
                tracing::warn!(%stream, hook = what, "the partition listener has not ended by the shutdown deadline and is stopped");
            }
        }
    }
}

fn panicked(text: &str) -> Error {
    Error::new(
        ErrorKind::Panic,
        format!("the partition listener panicked: {text}; the subscription has ended"),
    )
    .operation("assigned")
}
