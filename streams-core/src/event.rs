//! Events: typed data with a stream of its own.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Codec, Headers, Json, Key, Message, Protobuf, Result, StreamName, codec};

/// A fact that happened, as a Rust type that can be published and subscribed to.
///
/// Derive it, with the feature `derive`:
///
/// ```
/// # #[cfg(feature = "derive")] {
/// use serde::{Deserialize, Serialize};
/// use streams_core::Event;
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(stream = "user.created", key = "user_id")]
/// struct UserCreated {
///     user_id: String,
/// }
/// # }
/// ```
///
/// or write it out:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use streams_core::{Event, Key, Schema};
///
/// #[derive(Serialize, Deserialize)]
/// struct UserCreated {
///     user_id: String,
/// }
///
/// impl Event for UserCreated {
///     fn schema() -> Schema<Self> {
///         Schema::json("UserCreated").stream("user.created")
///     }
///
///     fn key(&self) -> Option<Key> {
///         Some(Key::from(&self.user_id))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(Event)]` with `#[event(stream = \"...\")]`, or implement `Event` by hand"
)]
pub trait Event: Sized + Send + Sync + 'static {
    /// Its name, stream, version and codecs.
    fn schema() -> Schema<Self>;

    /// The key that routes and orders it; none by default.
    fn key(&self) -> Option<Key> {
        None
    }

    /// Headers of its own; none by default.
    fn headers(&self) -> Headers {
        Headers::new()
    }
}

/// What is known about an event's type.
pub struct Schema<E> {
    name: Cow<'static, str>,
    stream: Option<Cow<'static, str>>,
    version: u32,
    codecs: Vec<Arc<dyn Codec<E>>>,
}

impl<E: Event> Schema<E> {
    /// A schema without a codec; add at least one with [`codec`](Schema::codec).
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            stream: None,
            version: 1,
            codecs: Vec::new(),
        }
    }

    /// An event written and read as JSON.
    pub fn json(name: impl Into<Cow<'static, str>>) -> Self
    where
        E: Serialize + DeserializeOwned,
    {
        Self::new(name).codec(Json)
    }

    /// An event written and read as Protocol Buffers.
    pub fn protobuf(name: impl Into<Cow<'static, str>>) -> Self
    where
        E: prost::Message + Default,
    {
        Self::new(name).codec(Protobuf)
    }

    /// Sets the stream it is published to.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<Cow<'static, str>>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Sets the version of its form; the default is 1.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Adds a codec. The first writes; all read, each its own content types.
    #[must_use]
    pub fn codec(mut self, codec: impl Codec<E>) -> Self {
        self.codecs.push(Arc::new(codec));
        self
    }
}

impl<E: Event> Schema<E> {
    /// The event a message holds, by the codec that reads its content type.
    ///
    /// # Errors
    /// [`Codec`](crate::ErrorKind::Codec) when no codec reads the content type, or the data is not
    /// this event.
    pub fn decode(&self, message: &Message) -> Result<E> {
        codec::decode(self, message)
    }
}

impl<E> Schema<E> {
    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream it declares.
    #[must_use]
    pub fn declared_stream(&self) -> Option<&str> {
        self.stream.as_deref()
    }

    /// The stream it declares, as a name.
    pub(crate) fn declared_name(&self) -> Option<Result<StreamName>> {
        self.stream.as_ref().map(|stream| match stream {
            Cow::Borrowed(known) => StreamName::from_static(known),
            Cow::Owned(text) => StreamName::new(text),
        })
    }

    /// The version of its form.
    #[must_use]
    pub fn declared_version(&self) -> u32 {
        self.version
    }

    /// Its codecs; the first writes.
    #[must_use]
    pub fn codecs(&self) -> &[Arc<dyn Codec<E>>] {
        &self.codecs
    }
}

impl<E: 'static> fmt::Debug for Schema<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codecs: Vec<_> = self.codecs.iter().map(|c| c.content_types()).collect();
        f.debug_struct("Schema")
            .field("name", &self.name)
            .field("stream", &self.stream)
            .field("version", &self.version)
            .field("codecs", &codecs)
            .finish()
    }
}
