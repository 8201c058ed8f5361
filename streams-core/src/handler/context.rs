//! What a handler knows about the delivery it handles.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::outputs::Outputs;
use super::{CancelCell, Cancelled};
use crate::{
    Capabilities, Clock, Headers, Message, Metadata, Publisher, Result, StreamName, TokenId,
};

/// One delivery as a handler sees it: the message, the facts of its delivery, and the means to
/// publish what follows from it. Cheap to clone.
///
/// A context given by [`Context::for_test`] lets a handler be called without a bus.
#[derive(Clone)]
pub struct Context {
    message: Message,
    parts: ContextParts,
    worker: Arc<WorkerInfo>,
    generation: u64,
}

/// What differs from delivery to delivery, beside the message.
#[derive(Debug, Clone)]
pub(crate) struct ContextParts {
    pub(crate) id: TokenId,
    pub(crate) attempt: u32,
    pub(crate) metadata: Option<Arc<dyn Metadata>>,
    pub(crate) first_failure: Option<SystemTime>,
    pub(crate) deadline: Option<Instant>,
}

impl ContextParts {
    /// Of no delivery.
    pub(crate) const NONE: Self = Self {
        id: TokenId {
            partition: 0,
            epoch: 0,
            sequence: 0,
        },
        attempt: 1,
        metadata: None,
        first_failure: None,
        deadline: None,
    };
}

/// What all deliveries of a subscription share.
pub(crate) struct SubscriptionInfo {
    pub(crate) stream: StreamName,
    pub(crate) group: Option<String>,
    pub(crate) publisher: Publisher,
    pub(crate) driver: &'static str,
    pub(crate) clock: Clock,
    /// What can be written in the transaction of a delivery, where each has one: exactly once.
    pub(crate) transactional: Option<Capabilities>,
}

/// What the deliveries of a worker share, or, with outputs of its own, those of one delivery.
struct WorkerInfo {
    subscription: Arc<SubscriptionInfo>,
    cancel: Arc<CancelCell>,
    publisher: Publisher,
    outputs: Option<Arc<Outputs>>,
}

impl Context {
    /// A context for a worker to use again and again, see [`Context::renew`].
    pub(crate) fn new(
        subscription: Arc<SubscriptionInfo>,
        cancel: Arc<CancelCell>,
        message: Message,
        parts: ContextParts,
    ) -> Self {
        let generation = cancel.begin();
        Self {
            message,
            parts,
            worker: Arc::new(WorkerInfo {
                publisher: subscription.publisher.clone(),
                subscription,
                cancel,
                outputs: None,
            }),
            generation,
        }
    }

    /// The next delivery of the same worker, under the generation its cancellation has begun.
    pub(crate) fn renew(&mut self, message: Message, parts: ContextParts, generation: u64) {
        self.generation = generation;
        self.message = message;
        self.parts = parts;
    }

    /// Another delivery of the same batch, under the same cancellation.
    pub(crate) fn sibling(&self, message: Message, parts: ContextParts) -> Self {
        Self {
            message,
            parts,
            worker: self.worker.clone(),
            generation: self.generation,
        }
    }

    /// Has what the handler publishes collected, for the transaction of this delivery alone.
    pub(crate) fn collect_outputs(&mut self) {
        let WorkerInfo {
            subscription,
            cancel,
            ..
        } = &*self.worker;
        let outputs = Arc::new(Outputs::new(subscription.clone()));
        self.worker = Arc::new(WorkerInfo {
            subscription: subscription.clone(),
            cancel: cancel.clone(),
            publisher: subscription.publisher.on(outputs.clone()),
            outputs: Some(outputs),
        });
    }

    /// Takes what the handler has published, now that it has returned.
    pub(crate) fn take_outputs(&self) -> Vec<Message> {
        let outputs = self.worker.outputs.as_ref();
        outputs.map(|outputs| outputs.take()).unwrap_or_default()
    }

    /// Refuses a message that cannot be part of this delivery's transaction; `None` where it has
    /// none.
    pub(crate) fn check_output(&self, message: &Message) -> Option<Result<()>> {
        let outputs = self.worker.outputs.as_ref();
        outputs.map(|outputs| outputs.check(message))
    }

    pub(crate) fn parts(&self) -> &ContextParts {
        &self.parts
    }

    /// A context of attempt 1 without a subscription, to call a handler or a layer in a test.
    #[must_use]
    pub fn for_test(message: Message) -> Self {
        let info = SubscriptionInfo {
            stream: message.stream().clone(),
            group: Some("test".to_owned()),
            publisher: Publisher::noop(),
            driver: "test",
            clock: Clock::system(),
            transactional: None,
        };
        Self::new(Arc::new(info), Arc::default(), message, ContextParts::NONE)
    }

    /// The same context with another attempt number, for tests of retry policies.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.parts.attempt = attempt;
        self
    }

    /// The same context with another message: for layers that decrypt, say.
    #[must_use]
    pub fn with_message(mut self, message: Message) -> Self {
        self.message = message;
        self
    }

    /// The same context with a deadline, unless it has an earlier one: for layers that limit time.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.parts.deadline = Some(self.parts.deadline.map_or(deadline, |d| d.min(deadline)));
        self
    }

    /// The same context with a publisher whose messages carry these headers too: for layers that
    /// pass on a trace or a correlation id.
    #[must_use]
    pub fn with_publish_headers(mut self, headers: &Headers) -> Self {
        let worker = &self.worker;
        self.worker = Arc::new(WorkerInfo {
            subscription: worker.subscription.clone(),
            cancel: worker.cancel.clone(),
            publisher: worker.publisher.with_headers(headers),
            outputs: worker.outputs.clone(),
        });
        self
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message's headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.message.headers()
    }

    /// The stream subscribed to.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.worker.subscription.stream
    }

    /// The consumer group, if the subscription has one.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.worker.subscription.group.as_deref()
    }

    /// How often the message has been handed to a handler, this time included. Where the driver
    /// counts deliveries, those of other readers and of earlier runs are in it.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.parts.attempt
    }

    /// When handling this message first failed, as far as this process knows.
    #[must_use]
    pub fn first_failure(&self) -> Option<SystemTime> {
        self.parts.first_failure
    }

    /// Partition and offset, or what the driver has in their place.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.parts.id
    }

    /// A fact of the driver's about this delivery, such as `streams-kafka-partition-id`.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<String> {
        self.parts
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get(name, self.parts.id))
    }

    /// The names of the driver's facts.
    #[must_use]
    pub fn metadata_names(&self) -> &'static [&'static str] {
        self.parts
            .metadata
            .as_ref()
            .map_or(&[], |metadata| metadata.names())
    }

    /// When handling must be done. Past it, it is cancelled and counts as failed.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.parts.deadline
    }

    /// What is left until the deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.parts
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Tells when the work is no longer wanted.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::new(self.worker.cancel.clone(), self.generation)
    }

    /// Whether the work is no longer wanted.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled().is_cancelled()
    }

    /// Publishes follow-up events.
    ///
    /// In a subscription that is [exactly once](crate::SubscriptionBuilder::exactly_once) it only
    /// collects them, to be written together with the acknowledgement.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.worker.publisher
    }

    /// The name of the driver that delivered it.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.worker.subscription.driver
    }

    /// The clock of the bus.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.worker.subscription.clock
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("stream", self.stream())
            .field("group", &self.group())
            .field("attempt", &self.attempt())
            .field("id", &self.parts.id)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
