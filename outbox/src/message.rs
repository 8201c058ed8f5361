//! Messages as they stand in a row of the outbox: a protobuf `TransportMessageBatch`, the format of
//! the Go library.
//!
//! Everything a [`Message`] has survives the way there and back:
//! - Headers are a protobuf map, which on the wire is a list. Order and repeated names are kept here;
//!   a Go reader takes the last value of a name.
//! - A header value that is not UTF-8 goes into a field of our own in the map's entry. A Go reader
//!   does not know that field and sees an empty value.
//! - An empty key is written as such, no key is left out. A Go reader sees an empty text for both, and
//!   leaves an empty key out, so that it is read as none.
//! - A key that is not UTF-8 goes into a field of our own. A Go reader sees no key.
//! - Times keep their nanoseconds.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use streams_core::{
    ContentType, Error, ErrorKind, Headers, Key, Message, MessageId, Result, StreamName,
};

/// The messages of one row.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TransportMessageBatch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) messages: Vec<TransportMessage>,
}

/// One message of a row.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TransportMessage {
    #[prost(string, tag = "1")]
    pub(crate) message_id: String,
    #[prost(string, tag = "2")]
    pub(crate) stream_name: String,
    /// Optional here alone: absence and the empty text look different on the wire all the same.
    #[prost(string, optional, tag = "3")]
    pub(crate) stream_key: Option<String>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) headers: Vec<Header>,
    #[prost(string, tag = "5")]
    pub(crate) content_type: String,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) data: Bytes,
    #[prost(message, optional, tag = "7")]
    pub(crate) time: Option<Timestamp>,
    /// Ours: a key that is not UTF-8.
    #[prost(bytes = "bytes", optional, tag = "1000")]
    pub(crate) binary_key: Option<Bytes>,
}

/// An entry of the map of headers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Header {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
    /// Ours: a value that is not UTF-8.
    #[prost(bytes = "bytes", optional, tag = "1000")]
    pub(crate) binary: Option<Bytes>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

/// The bytes of a row that holds these messages.
///
/// ```
/// use streams_core::Message;
/// use streams_outbox::{decode, encode};
///
/// let message = Message::builder("order.placed").key("17").data("{}").build()?;
/// let raw = encode(&[message.clone()]);
/// assert_eq!(decode("sql", "2Dn8bVbMQ2ZZzQ5YpLNpQ1EGi3p", &raw)?, [message]);
/// # Ok::<(), streams_core::Error>(())
/// ```
pub fn encode(messages: &[Message]) -> Vec<u8> {
    let messages = messages.iter().map(TransportMessage::from).collect();
    TransportMessageBatch { messages }.encode_to_vec()
}

/// The messages of a row. One without an id is named after the row and its place in it, so that it
/// has the same id each time. One without a time is of now. Errors name the driver.
///
/// # Errors
/// `Codec` if the bytes are no batch, or a message in it cannot be one of ours; the index says which.
pub fn decode(driver: &'static str, batch_id: &str, raw: &[u8]) -> Result<Vec<Message>> {
    decode_bytes(driver, batch_id, Bytes::copy_from_slice(raw))
}

/// As [`decode`], without a copy: the data of the messages are slices of `raw`.
pub(crate) fn decode_bytes(
    driver: &'static str,
    batch_id: &str,
    raw: Bytes,
) -> Result<Vec<Message>> {
    let corrupt = |problem: &str| {
        Error::new(ErrorKind::Codec, problem)
            .operation("decode")
            .driver(driver)
            .with("batch", batch_id)
    };
    let batch = TransportMessageBatch::decode(raw).map_err(|source| {
        let problem = "the row holds no batch of messages; it was damaged, or another program \
                       wrote it";
        corrupt(problem).source(source)
    })?;
    let messages = batch.messages.into_iter().enumerate();
    messages
        .map(|(index, message)| {
            let id = match &*message.message_id {
                "" => format!("{batch_id}-{index}"),
                id => id.to_owned(),
            };
            message.into_message(&id).map_err(|source| {
                corrupt("a message of the row is invalid; see the cause")
                    .with("index", index)
                    .source(source)
            })
        })
        .collect()
}

impl From<&Message> for TransportMessage {
    fn from(message: &Message) -> Self {
        let (stream_key, binary_key) = match message.key() {
            None => (None, None),
            Some(key) => match key.as_str() {
                Some(text) => (Some(text.to_owned()), None),
                None => (None, Some(Bytes::copy_from_slice(key.as_bytes()))),
            },
        };
        let header = |(name, value): (&str, &[u8])| {
            let name = name.to_owned();
            match std::str::from_utf8(value) {
                Ok(value) => Header {
                    name,
                    value: value.to_owned(),
                    binary: None,
                },
                Err(_) => Header {
                    name,
                    value: String::new(),
                    binary: Some(Bytes::copy_from_slice(value)),
                },
            }
        };
        Self {
            message_id: message.id().as_str().to_owned(),
            stream_name: message.stream().as_str().to_owned(),
            stream_key,
            headers: message.headers().iter().map(header).collect(),
            content_type: message.content_type().as_str().to_owned(),
            data: message.data().clone(),
            time: Some(message.time().into()),
            binary_key,
        }
    }
}

impl TransportMessage {
    fn into_message(self, id: &str) -> Result<Message> {
        let key = match (self.binary_key, &self.stream_key) {
            (Some(bytes), _) => Some(Key::from(bytes)),
            (None, Some(text)) => Some(Key::from(text)),
            (None, None) => None,
        };
        let header = |header: Header| {
            let value = header.binary.unwrap_or_else(|| header.value.into());
            (header.name, value)
        };
        let mut builder = Message::builder(StreamName::new(&self.stream_name)?)
            .id(MessageId::new(id)?)
            .maybe_key(key)
            .headers(self.headers.into_iter().map(header).collect::<Headers>())
            .content_type(ContentType::new(&self.content_type))
            .data(self.data);
        if let Some(time) = self.time {
            builder = builder.time(time.try_into()?);
        }
        builder.build_received()
    }
}

const NANOS: i64 = 1_000_000_000;

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let (seconds, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => (seconds(after), i64::from(after.subsec_nanos())),
            Err(before) => {
                let before = before.duration();
                (-seconds(before), -i64::from(before.subsec_nanos()))
            }
        };
        // The nanoseconds count forward, also before 1970.
        Self {
            seconds: seconds + nanos.div_euclid(NANOS),
            nanos: i32::try_from(nanos.rem_euclid(NANOS)).unwrap_or_default(),
        }
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl TryFrom<Timestamp> for SystemTime {
    type Error = Error;

    fn try_from(time: Timestamp) -> Result<Self> {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let whole = if time.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        u32::try_from(time.nanos)
            .ok()
            .filter(|nanos| i64::from(*nanos) < NANOS)
            .and_then(|nanos| whole?.checked_add(Duration::from_nanos(nanos.into())))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidMessage,
                    "the message's time is out of range",
                )
                .with("seconds", time.seconds)
                .with("nanos", time.nanos)
            })
    }
}

#[cfg(test)]
mod tests;
