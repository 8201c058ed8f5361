//! Publishing events.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::event::Event;
use crate::registry::Registered;
use crate::{
    Clock, Error, EventRegistry, Headers, IdentifierFactory, IntoStreamName, Message, MessageId,
    NoopWriter, Result, Scheduled, StreamName, WriteError, Writer, uuid_v7, writer,
};

/// Writes events to their streams. Cheap to clone; clones are one publisher.
///
/// A [`Bus`](crate::Bus) has one, and a handler's [`Context`](crate::Context) too. On its own:
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use streams_core::{Event, Schema};
/// # #[derive(Serialize, Deserialize)] struct UserCreated { user_id: String }
/// # impl Event for UserCreated {
/// #     fn schema() -> Schema<Self> { Schema::json("UserCreated").stream("user.created") }
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use streams_core::{EventRegistry, NoopWriter, Publisher, ksuid};
///
/// let registry = EventRegistry::new();
/// registry.register::<UserCreated>()?;
/// let publisher = Publisher::builder(Arc::new(NoopWriter::new()))
///     .registry(registry)
///     .identifier_factory(ksuid)
///     .build();
/// let id = publisher.publish(&UserCreated { user_id: "17".into() }).await?;
/// assert_eq!(id.as_str().len(), 27);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
    writer: Arc<dyn Writer>,
    headers: Headers,
}

struct Inner {
    registry: EventRegistry,
    identifiers: Arc<dyn IdentifierFactory>,
    clock: Clock,
    closed: AtomicBool,
}

/// Builds a [`Publisher`].
#[must_use = "a builder makes nothing until `build`"]
pub struct PublisherBuilder {
    writer: Arc<dyn Writer>,
    registry: EventRegistry,
    identifiers: Arc<dyn IdentifierFactory>,
    clock: Clock,
}

impl PublisherBuilder {
    /// Sets the registry that says which event goes where; the default is an empty one.
    pub fn registry(mut self, registry: EventRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Sets what makes message ids; the default is [`uuid_v7`].
    pub fn identifier_factory(mut self, factory: impl IdentifierFactory) -> Self {
        self.identifiers = Arc::new(factory);
        self
    }

    /// Sets the clock that gives messages their time.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The publisher.
    pub fn build(self) -> Publisher {
        Publisher {
            writer: self.writer,
            inner: Arc::new(Inner {
                registry: self.registry,
                identifiers: self.identifiers,
                clock: self.clock,
                closed: AtomicBool::new(false),
            }),
            headers: Headers::new(),
        }
    }
}

impl Publisher {
    /// Starts a publisher on a writer.
    pub fn builder(writer: Arc<dyn Writer>) -> PublisherBuilder {
        PublisherBuilder {
            writer,
            registry: EventRegistry::new(),
            identifiers: Arc::new(uuid_v7),
            clock: Clock::system(),
        }
    }

    pub(crate) fn noop() -> Self {
        Self::builder(Arc::new(NoopWriter::new())).build()
    }

    /// Writes an event to its registered stream and waits for the confirmation.
    ///
    /// # Errors
    /// - [`EventNotFound`](crate::ErrorKind::EventNotFound) when the event is not registered.
    /// - [`Closed`](crate::ErrorKind::Closed) after shutdown.
    /// - [`Codec`](crate::ErrorKind::Codec) when it cannot be encoded.
    /// - The writer's own.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<MessageId> {
        let registered = self.inner.registry.get::<E>()?;
        let message = self.message(&registered, &registered.stream, event)?;
        self.write_one(message).await
    }

    /// Writes many events of one type in one batch.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish). When only some could not be written, the error names the
    /// first of them and how many; use [`messages`](Publisher::messages) and
    /// [`write`](Publisher::write) to retry just those.
    pub async fn publish_all<E: Event>(&self, events: &[E]) -> Result<()> {
        Ok(self.write(&self.messages(events)?).await?)
    }

    /// Writes many events of one type in one transaction: readers get all of them or none. For
    /// messages of several streams use [`write_in_transaction`](Publisher::write_in_transaction).
    ///
    /// # Errors
    /// As [`write_in_transaction`](Publisher::write_in_transaction), and as
    /// [`messages`](Publisher::messages).
    pub async fn publish_all_in_transaction<E: Event>(&self, events: &[E]) -> Result<()> {
        self.write_in_transaction(&self.messages(events)?).await
    }

    /// Writes an event to a stream other than its registered one. It need not be registered.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish), and
    /// [`InvalidMessage`](crate::ErrorKind::InvalidMessage) for a bad stream name.
    pub async fn publish_to<E: Event>(
        &self,
        stream: impl IntoStreamName,
        event: &E,
    ) -> Result<MessageId> {
        let stream = stream.into_stream_name()?;
        let registered = match self.inner.registry.get::<E>() {
            Ok(registered) => registered,
            Err(_) => {
                let own = EventRegistry::new();
                own.register_to::<E>(&stream)?;
                own.get::<E>()?
            }
        };
        let message = self.message(&registered, &stream, event)?;
        self.write_one(message).await
    }

    /// Writes an event that is to be delivered at `due`, not earlier. A time gone by is now.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish), and [`Unsupported`](crate::ErrorKind::Unsupported) when
    /// the driver cannot schedule, or not that far ahead.
    pub async fn publish_at<E: Event>(&self, event: &E, due: SystemTime) -> Result<MessageId> {
        self.check_open()?;
        let registered = self.inner.registry.get::<E>()?;
        let message = self.message(&registered, &registered.stream, event)?;
        let id = message.id().clone();
        self.writer.write_at(&[message], due).await?;
        Ok(id)
    }

    /// Writes an event that is to be delivered after `delay`, not earlier.
    ///
    /// # Errors
    /// As [`publish_at`](Publisher::publish_at).
    pub async fn publish_after<E: Event>(&self, event: &E, delay: Duration) -> Result<MessageId> {
        let due = self.inner.clock.now().checked_add(delay).ok_or_else(|| {
            Error::invalid_config("the delay ends past the end of time; use a shorter one")
                .operation("publish_after")
        })?;
        self.publish_at(event, due).await
    }

    /// Takes back an event of type `E` published with a delay. `false` says that none was waiting
    /// under that id any more.
    ///
    /// # Errors
    /// - [`EventNotFound`](crate::ErrorKind::EventNotFound) when the event is not registered.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) when the driver cannot.
    pub async fn cancel<E: Event>(&self, id: &MessageId) -> Result<bool> {
        self.check_open()?;
        let registered = self.inner.registry.get::<E>()?;
        self.writer.cancel(&registered.stream, id).await
    }

    /// The messages that are scheduled for the stream of events of type `E`, those due first first, at
    /// most `limit`.
    ///
    /// # Errors
    /// - [`EventNotFound`](crate::ErrorKind::EventNotFound) when the event is not registered.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) when the driver cannot.
    pub async fn scheduled<E: Event>(&self, limit: usize) -> Result<Vec<Scheduled>> {
        self.check_open()?;
        let registered = self.inner.registry.get::<E>()?;
        self.writer.scheduled(&registered.stream, limit).await
    }

    /// The messages [`publish_all`](Publisher::publish_all) would write.
    ///
    /// # Errors
    /// As [`publish`](Publisher::publish), short of writing.
    pub fn messages<E: Event>(&self, events: &[E]) -> Result<Vec<Message>> {
        let registered = self.inner.registry.get::<E>()?;
        events
            .iter()
            .map(|event| self.message(&registered, &registered.stream, event))
            .collect()
    }

    /// Writes messages as they are.
    ///
    /// # Errors
    /// The failed indices, each with its reason.
    pub async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(WriteError::all(batch.len(), || {
                Error::closed("the publisher")
            }));
        }
        writer::write(&*self.writer, &self.with_own_headers(batch)).await
    }

    /// Writes messages as they are, in one transaction: whatever streams they are for, readers get
    /// all of them or none.
    ///
    /// # Errors
    /// Nothing was written then.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) when the driver has no transactions.
    /// - [`Closed`](crate::ErrorKind::Closed) after shutdown.
    /// - The writer's own; one that is about a message names its index.
    pub async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        self.check_open()?;
        if batch.is_empty() {
            return Ok(());
        }
        let batch = self.with_own_headers(batch);
        self.writer.write_in_transaction(&batch).await
    }

    /// The same publisher, whose messages carry these headers too unless they have their own.
    #[must_use]
    pub fn with_headers(&self, headers: &Headers) -> Self {
        let mut all = self.headers.clone();
        for (name, value) in headers.shared() {
            all.insert(name.clone(), value.clone());
        }
        Self {
            headers: all,
            ..self.clone()
        }
    }

    /// The same publisher on another writer: one that is bound to a transaction, say.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use std::sync::Arc;
    /// use streams_core::{Error, ErrorKind, Message, NoopWriter, Publisher};
    ///
    /// let publisher = Publisher::builder(Arc::new(NoopWriter::new())).build();
    /// let failing = NoopWriter::failing(|| Error::new(ErrorKind::Unavailable, "as asked"));
    /// let elsewhere = publisher.on(Arc::new(failing));
    ///
    /// let message = Message::builder("a").data("x").build()?;
    /// assert!(elsewhere.write(&[message.clone()]).await.is_err());
    /// assert!(publisher.write(&[message]).await.is_ok());
    /// # Ok::<(), Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn on(&self, writer: Arc<dyn Writer>) -> Self {
        Self {
            writer,
            ..self.clone()
        }
    }

    /// The registry it looks events up in.
    #[must_use]
    pub fn registry(&self) -> &EventRegistry {
        &self.inner.registry
    }

    /// The writer underneath.
    #[must_use]
    pub fn writer(&self) -> &Arc<dyn Writer> {
        &self.writer
    }

    /// Refuses everything from now on.
    pub(crate) fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }

    fn check_open(&self) -> Result<()> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::closed("the publisher"));
        }
        Ok(())
    }

    async fn write_one(&self, message: Message) -> Result<MessageId> {
        self.check_open()?;
        writer::write(&*self.writer, std::slice::from_ref(&message)).await?;
        Ok(message.id().clone())
    }

    fn message<E: Event>(
        &self,
        registered: &Registered<E>,
        stream: &StreamName,
        event: &E,
    ) -> Result<Message> {
        let mut data = Vec::new();
        registered.schema.codecs()[0].encode(event, &mut data)?;
        let mut headers = event.headers();
        if !self.headers.is_empty() {
            headers = merge(&headers, &self.headers);
        }
        Message::builder(stream)
            .id(self.inner.identifiers.make()?)
            .maybe_key(event.key())
            .headers(headers)
            .content_type(registered.content_type.clone())
            .data(data)
            .time(self.inner.clock.now())
            .build()
    }

    fn with_own_headers<'a>(&self, batch: &'a [Message]) -> Cow<'a, [Message]> {
        if self.headers.is_empty() {
            return Cow::Borrowed(batch);
        }
        batch.iter().map(|m| self.add_headers(m)).collect()
    }

    fn add_headers(&self, message: &Message) -> Message {
        let headers = merge(message.headers(), &self.headers);
        match message.to_builder().headers(headers).build_received() {
            Ok(message) => message,
            // Its parts were a message's already.
            Err(_) => message.clone(),
        }
    }
}

/// `own`, and of `more` what `own` does not name.
fn merge(own: &Headers, more: &Headers) -> Headers {
    let mut all = own.clone();
    for (name, value) in more.shared() {
        if own.get(name).is_none() {
            all.append(name.clone(), value.clone());
        }
    }
    all
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("driver", &self.writer.capabilities().driver)
            .field("registry", &self.inner.registry)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PublisherBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherBuilder").finish_non_exhaustive()
    }
}
