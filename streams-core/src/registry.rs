//! Which event goes to which stream.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::event::{Event, Schema};
use crate::{ContentType, Error, ErrorKind, IntoStreamName, Result, StreamName};

/// The events an application knows: each Rust type with its stream, name, version and codec.
///
/// Cheap to clone; clones are the same registry.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use streams_core::{Event, Schema};
/// # #[derive(Serialize, Deserialize)] struct UserCreated;
/// # impl Event for UserCreated {
/// #     fn schema() -> Schema<Self> { Schema::json("UserCreated").stream("user.created") }
/// # }
/// use streams_core::{ErrorKind, EventRegistry};
///
/// let registry = EventRegistry::new();
/// assert_eq!(registry.stream_of::<UserCreated>().unwrap_err().kind(), ErrorKind::EventNotFound);
/// registry.register::<UserCreated>()?;
/// assert_eq!(registry.stream_of::<UserCreated>()?, "user.created");
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct EventRegistry {
    events: Arc<RwLock<HashMap<TypeId, Entry>>>,
}

#[derive(Clone)]
struct Entry {
    info: EventInfo,
    registered: Arc<dyn Any + Send + Sync>,
}

/// A registered event, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventInfo {
    /// The event's name.
    pub name: String,
    /// The Rust type.
    pub type_name: &'static str,
    /// Its stream.
    pub stream: StreamName,
    /// The version of its form.
    pub version: u32,
    /// The content type it is written as.
    pub content_type: ContentType,
}

/// A registered event, for those who publish it.
pub(crate) struct Registered<E> {
    pub(crate) stream: StreamName,
    pub(crate) content_type: ContentType,
    pub(crate) schema: Schema<E>,
}

impl EventRegistry {
    /// A registry of its own, without events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an event under the stream it declares. Doing so again is `Ok`.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidConfig`] when the type declares no stream or no codec.
    /// - [`ErrorKind::Conflict`] when it is registered under another stream.
    pub fn register<E: Event>(&self) -> Result<()> {
        let schema = E::schema();
        let Some(stream) = schema.declared_name() else {
            return Err(Error::invalid_config(format!(
                "the event `{}` declares no stream; add `#[event(stream = \"...\")]` or register it \
                 with `register_to`",
                schema.name()
            )));
        };
        self.insert(schema, stream?)
    }

    /// Registers an event under a stream of the caller's choice. Doing so again is `Ok`.
    ///
    /// # Errors
    /// - [`ErrorKind::Conflict`] when it is registered under another stream.
    /// - [`ErrorKind::InvalidMessage`] for a bad stream name.
    /// - [`ErrorKind::InvalidConfig`] when the type declares no codec.
    pub fn register_to<E: Event>(&self, stream: impl IntoStreamName) -> Result<()> {
        self.insert(E::schema(), stream.into_stream_name()?)
    }

    fn insert<E: Event>(&self, schema: Schema<E>, stream: StreamName) -> Result<()> {
        let Some(codec) = schema.codecs().first() else {
            return Err(Error::invalid_config(format!(
                "the event `{}` has no codec; add one to its schema, such as `Schema::json`",
                schema.name()
            )));
        };
        let content_type = ContentType::from(codec.content_types()[0]);
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = events.get(&TypeId::of::<E>()) {
            if known.info.stream == stream {
                return Ok(());
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                "the event is already registered under another stream; register it once, or use a \
                 type of its own for the second stream",
            )
            .retryable(false)
            .with("event", schema.name())
            .with("registered", &known.info.stream)
            .with("asked", &stream));
        }
        let info = EventInfo {
            name: schema.name().to_owned(),
            type_name: type_name::<E>(),
            stream: stream.clone(),
            version: schema.declared_version(),
            content_type: content_type.clone(),
        };
        let registered = Arc::new(Registered {
            stream,
            content_type,
            schema,
        });
        events.insert(TypeId::of::<E>(), Entry { info, registered });
        Ok(())
    }

    /// Whether the event is registered.
    #[must_use]
    pub fn contains<E: Event>(&self) -> bool {
        self.get::<E>().is_ok()
    }

    /// The stream of an event.
    ///
    /// # Errors
    /// [`ErrorKind::EventNotFound`] when it is not registered.
    pub fn stream_of<E: Event>(&self) -> Result<StreamName> {
        self.get::<E>().map(|registered| registered.stream.clone())
    }

    pub(crate) fn get<E: Event>(&self) -> Result<Arc<Registered<E>>> {
        let events = self.events.read().unwrap_or_else(PoisonError::into_inner);
        events
            .get(&TypeId::of::<E>())
            .and_then(|entry| entry.registered.clone().downcast().ok())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::EventNotFound,
                    "the event is not registered; call `register` on the registry or `event` on \
                     the bus's builder, or subscribe to it first",
                )
                .with("event", type_name::<E>())
            })
    }

    /// Every registered event, by stream and name.
    #[must_use]
    pub fn events(&self) -> Vec<EventInfo> {
        let events = self.events.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = events.values().map(|entry| entry.info.clone()).collect();
        all.sort_by(|a, b| (&a.stream, &a.name).cmp(&(&b.stream, &b.name)));
        all
    }
}

impl fmt::Debug for EventRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}
