//! Three small layers, written once for single messages and batches, as middleware is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{Handler, Input, Layer, MessageId, Outcome};

use crate::lock::lock;

/// Counts acknowledgements and errors.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Counts>);

#[derive(Default)]
struct Counts {
    acknowledged: AtomicUsize,
    failed: AtomicUsize,
}

impl Log {
    pub(crate) fn acknowledged(&self) -> usize {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> usize {
        self.0.failed.load(Ordering::Relaxed)
    }
}

impl<H> Layer<H> for Log {
    type Service = Logged<H>;

    fn layer(&self, next: H) -> Logged<H> {
        Logged {
            counts: self.0.clone(),
            next,
        }
    }
}

pub(crate) struct Logged<H> {
    counts: Arc<Counts>,
    next: H,
}

impl<I: Input, H: Handler<I>> Handler<I> for Logged<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let mut output = self.next.handle(input).await;
        for result in I::results(&mut output) {
            match result {
                Ok(Outcome::Ack) => self.counts.acknowledged.fetch_add(1, Ordering::Relaxed),
                Ok(_) => continue,
                Err(_) => self.counts.failed.fetch_add(1, Ordering::Relaxed),
            };
        }
        output
    }
}

/// Turns errors into retries after this long.
pub(crate) struct Retry(pub(crate) Duration);

impl<H> Layer<H> for Retry {
    type Service = Retried<H>;

    fn layer(&self, next: H) -> Retried<H> {
        Retried {
            delay: self.0,
            next,
        }
    }
}

pub(crate) struct Retried<H> {
    delay: Duration,
    next: H,
}

impl<I: Input, H: Handler<I>> Handler<I> for Retried<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let mut output = self.next.handle(input).await;
        for result in I::results(&mut output) {
            if result.is_err() {
                *result = Ok(Outcome::retry_after(self.delay));
            }
        }
        output
    }
}

/// Handles each message id once: claims it, keeps the claim on success, gives it up on failure.
#[derive(Default)]
pub(crate) struct Dedup;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Busy,
    Done,
}

impl<H> Layer<H> for Dedup {
    type Service = Deduplicated<H>;

    fn layer(&self, next: H) -> Deduplicated<H> {
        Deduplicated {
            claims: Mutex::default(),
            next,
        }
    }
}

pub(crate) struct Deduplicated<H> {
    claims: Mutex<HashMap<MessageId, Claim>>,
    next: H,
}

impl<H> Deduplicated<H> {
    /// The claim there is, or none, and then it is ours.
    fn claim(&self, id: &MessageId) -> Option<Claim> {
        let mut claims = lock(&self.claims);
        let before = claims.get(id).copied();
        if before.is_none() {
            claims.insert(id.clone(), Claim::Busy);
        }
        before
    }

    fn end(&self, id: &MessageId, done: bool) {
        let mut claims = lock(&self.claims);
        if done {
            claims.insert(id.clone(), Claim::Done);
        } else {
            claims.remove(id);
        }
    }
}

impl<I: Input, H: Handler<I>> Handler<I> for Deduplicated<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let before: Vec<_> = input
            .items()
            .iter()
            .map(|item| self.claim(item.message().id()))
            .collect();
        let ours: Vec<_> = (0..before.len()).filter(|i| before[*i].is_none()).collect();
        let mut results = HashMap::new();
        if let Some(selected) = input.select(&ours) {
            let mut output = self.next.handle(&selected).await;
            for (at, result) in ours.into_iter().zip(I::results(&mut output)) {
                let id = input.items()[at].message().id();
                self.end(id, matches!(result, Ok(Outcome::Ack)));
                results.insert(at, std::mem::replace(result, Ok(Outcome::Ack)));
            }
        }
        let mut at = 0;
        input.output(|_| {
            let result = match before[at] {
                None => results.remove(&at).unwrap_or(Ok(Outcome::Ack)),
                Some(Claim::Done) => Ok(Outcome::Ack),
                Some(Claim::Busy) => Ok(Outcome::retry_after(Duration::from_millis(10))),
            };
            at += 1;
            result
        })
    }
}
