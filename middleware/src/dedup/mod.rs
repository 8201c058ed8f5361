//! Deduplication: a message that comes twice is handled once.
//!
//! At-least-once delivery brings messages again: after a crash, a lost acknowledgement, a publisher's
//! retry. The layer **claims** a message before it is handled, **commits** when it was, and
//! **releases** when it failed. (Check-then-commit lets two workers handle one message;
//! record-before-handling loses messages.)
//!
//! # Behavior
//! - Claimed: the handler runs. On [`Outcome::Ack`] the claim is
//!   committed. On anything else, an error, a retry, a release, a dead letter, it is released, so that
//!   the message can come again.
//! - Done already: acknowledged without calling the handler.
//! - In progress elsewhere: [postponed](Outcome::Postpone), which counts no attempt, for 1 s or more
//!   the more attempts were made, up to 30 s.
//! - The storage cannot be reached: postponed the same way and logged at `ERROR`; the handler is not
//!   called. It is no failure of the message, so no outage of the storage makes dead letters.
//! - The commit fails after the handler has succeeded: logged at `WARN` and acknowledged. Should the
//!   message come again, it is handled again once the claim has expired.
//! - The handling is dropped (a timeout outside, a panic, the shutdown deadline): a task is started
//!   that releases the claim. Where there is no runtime left to run it, and after a crash, the claim
//!   expires.
//! - The claim expires while the handler still runs: another worker may then handle the message too.
//!   The late commit does not end the other's claim; it is logged at `WARN`. Make
//!   [`claim_expiry`](DeduplicationBuilder::claim_expiry) longer than the longest handling, of a
//!   whole batch for a batch handler.
//! - In a batch, only the claimed messages are handed on, and each is committed or released by its
//!   own result. The same message twice in one batch is handled once: its later copies are
//!   acknowledged with the first, or retried with it.
//!
//! # What it does not do
//! It makes a second handling unlikely, not impossible: a crash between the handler's effect and the
//! commit brings the message again. Only a storage inside the handler's own transaction closes that
//! gap; see the SQL driver's inbox.
//!
//! # The name that messages are remembered under
//! By default the subscription's group *and* stream: a copy of a message with the same id in another
//! stream (a dead letter, a forwarded message) is another message. A subscription without a group is
//! remembered by itself, for this process only. Set [`group`](DeduplicationBuilder::group) to share
//! the memory with other services.
//!
//! # Where it belongs
//! Inside [`Retry`](crate::Retry) and [`DeadLetters`](crate::DeadLetters): around them it would take
//! "written to the dead letters" for "handled", and acknowledge the message unhandled when it is
//! brought back. Around [`Timeout`](crate::Timeout), and inside what waits before the handler
//! ([`RateLimit`](crate::RateLimit), [`CircuitBreaker`](crate::CircuitBreaker)), so that a claim
//! does not run out while it waits.

#[cfg(feature = "moka")]
mod moka;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use streams_core::{
    Backoff, Claim, ClaimId, Context, DeduplicationStorage, Error, Handler, HandlerResult, Input,
    Layer, MessageId, Outcome, Result, uuid_v7,
};

#[cfg(feature = "moka")]
pub use self::moka::MokaStorage;

/// Calls to the storage at a time, for one batch.
const PARALLEL: usize = 32;

/// The layer. See the [module](self).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use streams_core::{Context, Handler, Layer, Message, Outcome, message_fn};
/// use streams_middleware::{Deduplication, MokaStorage};
///
/// let calls = Arc::new(AtomicUsize::new(0));
/// let counted = calls.clone();
/// let handler = message_fn(move |_, _| {
///     counted.fetch_add(1, Ordering::Relaxed);
///     async { Outcome::Ack }
/// });
/// let storage = Arc::new(MokaStorage::new(100_000)?);
/// let handler = Deduplication::new(storage).layer(handler);
///
/// let delivery = Context::for_test(Message::builder("orders").data("x").build()?);
/// assert_eq!(handler.handle(&delivery).await.unwrap(), Outcome::Ack);
/// assert_eq!(handler.handle(&delivery).await.unwrap(), Outcome::Ack);
/// assert_eq!(calls.load(Ordering::Relaxed), 1);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Deduplication {
    storage: Arc<dyn DeduplicationStorage>,
    group: Option<Arc<str>>,
    claim_expiry: Duration,
    retention: Duration,
    backoff: Backoff,
}

impl Deduplication {
    /// With a storage and the defaults: claims expire after 5 minutes, handled messages are
    /// remembered for an hour.
    #[must_use]
    pub fn new(storage: Arc<dyn DeduplicationStorage>) -> Self {
        Self {
            storage,
            group: None,
            claim_expiry: Duration::from_secs(5 * 60),
            retention: Duration::from_secs(60 * 60),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    /// Starts from the defaults of [`new`](Deduplication::new).
    pub fn builder(storage: Arc<dyn DeduplicationStorage>) -> DeduplicationBuilder {
        DeduplicationBuilder(Self::new(storage))
    }
}

/// Builds a [`Deduplication`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct DeduplicationBuilder(Deduplication);

impl DeduplicationBuilder {
    /// Remembers messages under this name, rather than under the subscription's group and stream.
    pub fn group(mut self, group: impl Into<Arc<str>>) -> Self {
        self.0.group = Some(group.into());
        self
    }

    /// Sets after how long another worker may take over a message whose worker died. Longer than the
    /// longest handling.
    pub fn claim_expiry(mut self, expiry: Duration) -> Self {
        self.0.claim_expiry = expiry;
        self
    }

    /// Sets for how long a handled message is remembered. Longer than the time in which the backend
    /// may bring it again.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.0.retention = retention;
        self
    }

    /// Sets the delays before a message is tried again that another worker is at, or whose claim the
    /// storage did not answer.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.0.backoff = backoff;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for an expiry or retention of zero,
    /// an empty group, or a backoff that would make a hot loop.
    pub fn build(self) -> Result<Deduplication> {
        let problem = if self.0.claim_expiry.is_zero() {
            "claim expiry is 0, so two workers could handle one message; make it longer than the \
             longest handling"
        } else if self.0.retention.is_zero() {
            "retention is 0, so nothing would be remembered; make it as long as duplicates may come"
        } else if self.0.group.as_deref() == Some("") {
            "group is empty; name it, or leave it out for the subscription's own"
        } else {
            self.0.backoff.validate()?;
            return Ok(self.0);
        };
        Err(Error::invalid_config(format!(
            "the deduplication's {problem}"
        )))
    }
}

impl fmt::Debug for Deduplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deduplication")
            .field("group", &self.group)
            .field("claim_expiry", &self.claim_expiry)
            .field("retention", &self.retention)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

impl<H> Layer<H> for Deduplication {
    type Service = DeduplicationService<H>;

    fn layer(&self, next: H) -> Self::Service {
        DeduplicationService {
            next,
            settings: self.clone(),
            alone: uuid_v7().map_or_else(|_| Arc::from("alone"), |id| Arc::from(id.as_str())),
        }
    }
}

/// A handler within [`Deduplication`].
#[derive(Debug, Clone)]
pub struct DeduplicationService<H> {
    next: H,
    settings: Deduplication,
    /// The name of a subscription that has no group.
    alone: Arc<str>,
}

/// What is to be done with one delivery.
enum Step {
    /// It is ours to handle.
    Handle(Held),
    /// It is a copy of an earlier one in the batch.
    Follow(usize),
    /// Its outcome is known.
    Known(Outcome),
}

impl<H> DeduplicationService<H> {
    fn group(&self, context: &Context) -> Arc<str> {
        match (&self.settings.group, context.group()) {
            (Some(group), _) => group.clone(),
            (None, Some(group)) => format!("{group}:{}", context.stream()).into(),
            (None, None) => self.alone.clone(),
        }
    }

    async fn claim_all(&self, items: &[Context]) -> Vec<Step> {
        let Some(first) = items.first() else {
            return Vec::new();
        };
        let group = self.group(first);
        if items.len() == 1 {
            return vec![self.claim(&group, first).await];
        }
        let mut firsts = HashMap::with_capacity(items.len());
        let mut steps = Vec::with_capacity(items.len());
        for (start, chunk) in items.chunks(PARALLEL).enumerate() {
            let claims = chunk.iter().enumerate().map(|(offset, context)| {
                let index = start * PARALLEL + offset;
                let first = *firsts.entry(context.message().id()).or_insert(index);
                let group = &group;
                async move {
                    if first == index {
                        self.claim(group, context).await
                    } else {
                        Step::Follow(first)
                    }
                }
            });
            steps.extend(join_all(claims).await);
        }
        steps
    }

    async fn claim(&self, group: &Arc<str>, context: &Context) -> Step {
        let Deduplication {
            storage,
            claim_expiry,
            ..
        } = &self.settings;
        let id = context.message().id();
        match storage.claim(group, id, *claim_expiry).await {
            Ok(Claim::Acquired(claim)) => Step::Handle(Held {
                storage: storage.clone(),
                group: group.clone(),
                id: id.clone(),
                claim: Some(claim),
            }),
            Ok(Claim::Done) => {
                tracing::debug!(
                    stream = %context.stream(), group = &**group, %id,
                    "a duplicate: it has been handled, and is acknowledged"
                );
                Step::Known(Outcome::Ack)
            }
            Ok(_) => Step::Known(self.put_off(context)),
            Err(error) => {
                tracing::error!(
                    stream = %context.stream(), group = &**group, %id, error = ?error,
                    "the deduplication storage does not answer; the message is tried again"
                );
                Step::Known(self.put_off(context))
            }
        }
    }

    fn put_off(&self, context: &Context) -> Outcome {
        Outcome::postpone(self.settings.backoff.delay(context.attempt()))
    }

    /// Commits what was acknowledged and releases the rest. A delivery without a result counts as
    /// failed.
    async fn settle(&self, held: Vec<Held>, results: &[HandlerResult]) {
        let mut results = results.iter();
        let mut settling = Vec::with_capacity(held.len());
        for held in held {
            let done = matches!(results.next(), Some(Ok(Outcome::Ack)));
            settling.push(async move {
                if done {
                    held.commit(self.settings.retention).await;
                } else {
                    held.release().await;
                }
            });
        }
        while !settling.is_empty() {
            let rest = settling.split_off(settling.len().min(PARALLEL));
            join_all(settling).await;
            settling = rest;
        }
    }
}

impl<I: Input, H: Handler<I>> Handler<I> for DeduplicationService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let items = input.items();
        let mut keep = Vec::with_capacity(items.len());
        let mut held = Vec::with_capacity(items.len());
        let mut rest = Vec::new();
        for (index, step) in self.claim_all(items).await.into_iter().enumerate() {
            match step {
                Step::Handle(one) => {
                    keep.push(index);
                    held.push(one);
                }
                Step::Follow(first) => rest.push((index, Err(first))),
                Step::Known(outcome) => rest.push((index, Ok(outcome))),
            }
        }
        if rest.is_empty() {
            let mut output = self.next.handle(input).await;
            self.settle(held, I::results(&mut output)).await;
            return output;
        }

        let mut results: Vec<Option<HandlerResult>> = items.iter().map(|_| None).collect();
        if let Some(claimed) = input.select(&keep) {
            let mut output = self.next.handle(&claimed).await;
            let handled = I::results(&mut output);
            self.settle(held, handled).await;
            for (index, result) in keep.into_iter().zip(handled) {
                results[index] = Some(std::mem::replace(result, Ok(Outcome::Release)));
            }
        }
        for (index, known) in rest {
            results[index] = Some(Ok(match known {
                Ok(outcome) => outcome,
                // A copy stands behind the first, which comes first: its result is known by now.
                Err(first) => match &results[first] {
                    Some(Ok(Outcome::Ack)) => Outcome::Ack,
                    Some(Ok(Outcome::Retry { after })) => Outcome::Retry { after: *after },
                    Some(Ok(Outcome::Postpone { after })) => Outcome::postpone(*after),
                    _ => self.put_off(&items[index]),
                },
            }));
        }
        let mut results = results.into_iter();
        input.output(|_| match results.next().flatten() {
            Some(result) => result,
            // The handler returned too few: as everywhere, what has no result has failed.
            None => Ok(Outcome::Retry { after: None }),
        })
    }
}

/// A claim that is ours. Dropped without having been settled, it is released in the background.
struct Held {
    storage: Arc<dyn DeduplicationStorage>,
    group: Arc<str>,
    id: MessageId,
    claim: Option<ClaimId>,
}

impl Held {
    async fn commit(mut self, retention: Duration) {
        // From here on it may be committed: a release by our drop could bring a handled message
        // again, so what is cut off here is left to expire.
        let Some(claim) = self.claim.take() else {
            return;
        };
        let (group, id) = (&*self.group, &self.id);
        match self.storage.commit(group, id, claim, retention).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                group, %id,
                "a message was handled for longer than its claim lasted, so another worker may have \
                 handled it too; raise the claim expiry"
            ),
            Err(error) => tracing::warn!(
                group, %id, error = ?error,
                "a message was handled, but that could not be recorded; should it come again, it is \
                 handled again"
            ),
        }
    }

    async fn release(mut self) {
        if let Some(claim) = self.claim {
            release(&*self.storage, &self.group, &self.id, claim).await;
            self.claim = None;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (storage, group, id) = (self.storage.clone(), self.group.clone(), self.id.clone());
        runtime.spawn(async move { release(&*storage, &group, &id, claim).await });
    }
}

async fn release(storage: &dyn DeduplicationStorage, group: &str, id: &MessageId, claim: ClaimId) {
    if let Err(error) = storage.release(group, id, claim).await {
        tracing::warn!(
            group, %id, error = ?error,
            "a claim could not be released; the message waits until it expires"
        );
    }
}
