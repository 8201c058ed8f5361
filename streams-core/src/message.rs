//! The message, the unit that streams carry.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytestring::ByteString;

use crate::headers::IntoHeaderValue;
use crate::id::new_uuid_v7;
use crate::{
    ContentType, Error, ErrorKind, Headers, IntoStreamName, Key, MessageId, Result, StreamName,
};

/// A message: immutable, shared, cheap to clone.
///
/// A clone shares everything with the original. To change one, go through
/// [`to_builder`](Message::to_builder).
///
/// ```
/// use streams_core::{ContentType, Message};
///
/// let message = Message::builder("user.created")
///     .key("user-17")
///     .header("tenant", "acme")
///     .content_type(ContentType::JSON)
///     .data(r#"{"user_id":"user-17"}"#)
///     .build()?;
/// assert_eq!(message.stream(), &"user.created");
/// assert_eq!(message.headers().get_str("tenant"), Some("acme"));
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Message(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: MessageId,
    stream: StreamName,
    key: Option<Key>,
    headers: Headers,
    content_type: ContentType,
    data: Bytes,
    time: SystemTime,
}

impl Message {
    /// Starts a message for `stream`.
    #[inline]
    pub fn builder(stream: impl IntoStreamName) -> MessageBuilder {
        let (stream, problem) = match stream.into_stream_name() {
            Ok(stream) => (Some(stream), None),
            Err(error) => (None, Some(error)),
        };
        MessageBuilder {
            problem,
            id: None,
            stream,
            key: None,
            headers: Headers::new(),
            content_type: ContentType::BYTES,
            data: Bytes::new(),
            time: None,
        }
    }

    /// The unique identifier.
    #[must_use]
    pub fn id(&self) -> &MessageId {
        &self.0.id
    }

    /// The stream it is written to, or was read from.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.0.stream
    }

    /// The key that routes and orders it.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// The type of the data.
    #[must_use]
    pub fn content_type(&self) -> &ContentType {
        &self.0.content_type
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.0.data
    }

    /// When it was published.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.0.time
    }

    /// Bytes of everything it carries: id, stream, key, headers, content type and data.
    #[must_use]
    pub fn size(&self) -> usize {
        let inner = &*self.0;
        inner.id.as_str().len()
            + inner.stream.as_str().len()
            + inner.key.as_ref().map_or(0, |key| key.as_bytes().len())
            + inner.headers.size()
            + inner.content_type.as_str().len()
            + inner.data.len()
    }

    /// A builder that starts from this message, its id and time included.
    pub fn to_builder(&self) -> MessageBuilder {
        let inner = (*self.0).clone();
        MessageBuilder {
            problem: None,
            id: Some(inner.id),
            stream: Some(inner.stream),
            key: inner.key,
            headers: inner.headers,
            content_type: inner.content_type,
            data: inner.data,
            time: Some(inner.time),
        }
    }
}

impl fmt::Debug for Message {
    /// Everything but the data, of which only the length is shown: it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", self.id())
            .field("stream", self.stream())
            .field("key", &self.key())
            .field("headers", self.headers())
            .field("content_type", self.content_type())
            .field("data", &format_args!("{} bytes", self.data().len()))
            .field("time", &self.time())
            .finish()
    }
}

impl PartialEq for Message {
    /// Equal in all that is sent. Times are compared to the millisecond, which is what wires keep.
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        a.id == b.id
            && a.stream == b.stream
            && a.key == b.key
            && a.headers == b.headers
            && a.content_type == b.content_type
            && a.data == b.data
            && unix_millis(a.time) == unix_millis(b.time)
    }
}

/// Milliseconds since the Unix epoch, as the wire formats carry a message's time. Negative before.
#[must_use]
pub fn unix_millis(time: SystemTime) -> i64 {
    let clamp = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => clamp(after),
        Err(before) => -clamp(before.duration()),
    }
}

/// As [`unix_millis`], rounded up: for times that nothing may come before.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// let due = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500);
/// assert_eq!(streams_core::unix_millis(due), 1);
/// assert_eq!(streams_core::unix_millis_not_before(due), 2);
/// ```
#[must_use]
pub fn unix_millis_not_before(time: SystemTime) -> i64 {
    let millis = unix_millis(time);
    if from_unix_millis(millis) < time {
        millis.saturating_add(1)
    } else {
        millis
    }
}

/// The time that many milliseconds after the Unix epoch.
#[must_use]
pub fn from_unix_millis(millis: i64) -> SystemTime {
    let distance = Duration::from_millis(millis.unsigned_abs());
    let time = if millis < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Builds a [`Message`]; made by [`Message::builder`].
#[derive(Debug)]
#[must_use = "a builder makes nothing until `build`"]
pub struct MessageBuilder {
    problem: Option<Error>,
    id: Option<MessageId>,
    stream: Option<StreamName>,
    key: Option<Key>,
    headers: Headers,
    content_type: ContentType,
    data: Bytes,
    time: Option<SystemTime>,
}

impl MessageBuilder {
    /// Sets the identifier; the default is a new UUID version 7.
    #[inline]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sends it to another stream.
    pub fn stream(mut self, stream: impl IntoStreamName) -> Self {
        match stream.into_stream_name() {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => self.problem = Some(error),
        }
        self
    }

    /// Sets the key; messages of one key are handled in order.
    #[inline]
    pub fn key(mut self, key: impl Into<Key>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets or takes away the key.
    #[inline]
    pub fn maybe_key(mut self, key: Option<Key>) -> Self {
        self.key = key;
        self
    }

    /// Sets one header, replacing any under the same name.
    pub fn header(mut self, name: impl Into<ByteString>, value: impl IntoHeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets all headers.
    #[inline]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the type of the data.
    #[inline]
    pub fn content_type(mut self, content_type: impl Into<ContentType>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the data.
    #[inline]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = data.into();
        self
    }

    /// Sets the time; the default is now.
    #[inline]
    pub fn time(mut self, time: SystemTime) -> Self {
        self.time = Some(time);
        self
    }

    /// The message, ready to be written.
    ///
    /// # Errors
    /// - [`ErrorKind::EmptyMessage`] without data.
    /// - [`ErrorKind::InvalidMessage`] for a bad stream name or a header without a name.
    pub fn build(self) -> Result<Message> {
        if self.problem.is_none() && self.data.is_empty() {
            let error = Error::new(
                ErrorKind::EmptyMessage,
                "the message has no data; set it with `data`",
            );
            return Err(match &self.stream {
                Some(stream) => error.with("stream", stream),
                None => error,
            });
        }
        if self.headers.iter().any(|(name, _)| name.is_empty()) {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "a header has an empty name; name it or leave it out",
            ));
        }
        self.build_received()
    }

    /// The message as a reader met it on the wire, where it may be empty (a Kafka tombstone).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`] for a bad stream name.
    #[inline]
    pub fn build_received(self) -> Result<Message> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let Some(stream) = self.stream else {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "the message has no stream",
            ));
        };
        Ok(Message(Arc::new(Inner {
            id: self.id.unwrap_or_else(new_uuid_v7),
            stream,
            key: self.key,
            headers: self.headers,
            content_type: self.content_type,
            data: self.data,
            time: self.time.unwrap_or_else(SystemTime::now),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_message_is_refused() {
        let error = Message::builder("a").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EmptyMessage);
        assert!(Message::builder("a").build_received().is_ok());
    }

    #[test]
    fn a_bad_stream_is_refused_at_build() {
        let error = Message::builder("a b").data("x").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        let error = Message::builder("a")
            .stream("")
            .data("x")
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    }

    #[test]
    fn a_header_without_a_name_is_refused() {
        let error = Message::builder("a")
            .header("", "x")
            .data("x")
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    }

    #[test]
    fn debug_hides_data() {
        let message = Message::builder("a").data("secret").build().unwrap();
        assert!(!format!("{message:?}").contains("secret"));
    }

    #[test]
    fn times_survive_milliseconds() {
        for millis in [-1, 0, 1, 1_700_000_000_123] {
            assert_eq!(unix_millis(from_unix_millis(millis)), millis);
        }
    }

    #[test]
    fn a_rebuilt_message_is_equal() {
        let message = Message::builder("a")
            .key("k")
            .header("h", "v")
            .data("x")
            .build()
            .unwrap();
        assert_eq!(message.to_builder().build().unwrap(), message);
    }
}
