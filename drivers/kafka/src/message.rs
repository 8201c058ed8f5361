//! Messages as Kafka records and back, in the format of the Go services.
//!
//! | message | record |
//! | --- | --- |
//! | stream | topic |
//! | key | key; the empty key is a key |
//! | data | value; none is a null value |
//! | time | timestamp in milliseconds |
//! | id | header `message_id` |
//! | content type | header `content_type` |
//! | headers | headers |

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rdkafka::message::{Header, Headers as _, Message as Record, OwnedHeaders};
use streams_core::{
    ContentType, Error, ErrorKind, Headers, Key, Message, MessageId, Result, StreamName,
    from_unix_millis, unix_millis,
};

/// The header with the message's id.
pub(crate) const MESSAGE_ID: &str = "message_id";
/// The header with the type of the data.
pub(crate) const CONTENT_TYPE: &str = "content_type";
/// What the names of the reader's facts begin with.
const FACTS: &str = "streams-kafka-";

/// The headers a message is written with.
///
/// # Errors
/// [`ErrorKind::InvalidMessage`] for a header under a name that Kafka or the format has taken.
pub(crate) fn to_headers(message: &Message) -> Result<OwnedHeaders> {
    let headers = message.headers();
    let mut record = OwnedHeaders::new_with_capacity(headers.len() + 2)
        .insert(Header {
            key: MESSAGE_ID,
            value: Some(message.id().as_str()),
        })
        .insert(Header {
            key: CONTENT_TYPE,
            value: Some(message.content_type().as_str()),
        });
    for (name, value) in headers.iter() {
        check_header_name(name)?;
        record = record.insert(Header {
            key: name,
            value: Some(value),
        });
    }
    Ok(record)
}

fn check_header_name(name: &str) -> Result<()> {
    let problem = if name == MESSAGE_ID || name == CONTENT_TYPE {
        "is the name under which the message's own id and content type travel"
    } else if name.starts_with(FACTS) {
        "is a fact of the reader's, which would be stale"
    } else if name.contains('\0') {
        "has a null character, which Kafka clients cannot read"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::InvalidMessage,
        format!("the header name {name:?} {problem}; use another name"),
    ))
}

/// The time a message is written with, in milliseconds.
///
/// # Errors
/// [`ErrorKind::InvalidMessage`] for a time Kafka does not take.
pub(crate) fn to_timestamp(message: &Message) -> Result<i64> {
    match unix_millis(message.time()) {
        millis if millis > 0 => Ok(millis),
        millis => Err(Error::new(
            ErrorKind::InvalidMessage,
            "Kafka takes only times after 1970; set another with `time`",
        )
        .with("milliseconds", millis)),
    }
}

/// Makes messages of records. What one record and the next have in common is shared.
pub(crate) struct Decoder {
    stream: StreamName,
    content_type: ContentType,
}

impl Decoder {
    pub(crate) fn new(stream: StreamName) -> Self {
        Self {
            stream,
            content_type: ContentType::BYTES,
        }
    }

    /// The message of a record, whoever wrote it: one without a usable id gets one of its topic,
    /// partition and offset, which is the same each time it is read.
    pub(crate) fn message(&mut self, record: &impl Record) -> Result<Message> {
        let mut id = None;
        let mut content_type = None;
        let mut headers = Headers::new();
        if let Some(record_headers) = record.headers() {
            for at in 0..record_headers.count() {
                let Some(header) = header(record_headers, at) else {
                    continue;
                };
                match header.key {
                    MESSAGE_ID if id.is_none() => {
                        id = text(&header).and_then(|t| MessageId::new(t).ok());
                    }
                    CONTENT_TYPE if content_type.is_none() => {
                        content_type = self.content_type(&header);
                    }
                    MESSAGE_ID | CONTENT_TYPE => {}
                    name if name.starts_with(FACTS) || name.is_empty() => {}
                    name => headers.append(name, header.value.unwrap_or_default()),
                }
            }
        }
        let id = match id {
            Some(id) => id,
            None => derived_id(&self.stream, record.partition(), record.offset())?,
        };
        let mut message = Message::builder(&self.stream)
            .id(id)
            .maybe_key(record.key().map(Key::from))
            .headers(headers)
            .content_type(content_type.unwrap_or(ContentType::BYTES))
            .data(
                record
                    .payload()
                    .map_or_else(Bytes::new, Bytes::copy_from_slice),
            );
        if let Some(millis) = record.timestamp().to_millis() {
            // A time that cannot be written could never become a dead letter.
            message = message.time(from_unix_millis(millis.max(1)));
        }
        message.build_received()
    }
}

impl Decoder {
    /// The type a header names: mostly that of the record before.
    fn content_type(&mut self, header: &Header<'_, &[u8]>) -> Option<ContentType> {
        if header.value != Some(self.content_type.as_str().as_bytes()) {
            self.content_type = ContentType::new(text(header)?);
        }
        Some(self.content_type.clone())
    }
}

/// The header at this place. The client panics on a name that is not UTF-8, which the protocol
/// forbids and no broker checks; such a header is left out.
fn header(headers: &impl rdkafka::message::Headers, at: usize) -> Option<Header<'_, &[u8]>> {
    match catch_unwind(AssertUnwindSafe(|| headers.try_get(at))) {
        Ok(header) => header,
        Err(_) => {
            tracing::warn!("a header whose name is not UTF-8 is left out");
            None
        }
    }
}

fn text<'a>(header: &Header<'a, &'a [u8]>) -> Option<&'a str> {
    header
        .value
        .and_then(|value| std::str::from_utf8(value).ok())
}

/// The id of a record that brings none: where it stands, so that it is the same each time.
fn derived_id(stream: &StreamName, partition: i32, offset: i64) -> Result<MessageId> {
    // A topic has at most 249 characters; with the numbers it may be longer than an id can be.
    let topic = stream.as_str();
    let start = topic.len().saturating_sub(210);
    MessageId::new(format!("{}/{partition}/{offset}", &topic[start..]))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_fits_the_longest_topic() {
        let topic = StreamName::new("t".repeat(249)).unwrap();
        let id = derived_id(&topic, i32::MAX, i64::MAX).unwrap();
        assert!(id.as_str().ends_with("/2147483647/9223372036854775807"));
        let topic = StreamName::new("orders").unwrap();
        assert_eq!(derived_id(&topic, 3, 17).unwrap().as_str(), "orders/3/17");
    }

    #[test]
    fn names_the_format_has_taken_are_refused() {
        for name in [
            "message_id",
            "content_type",
            "streams-kafka-group-id",
            "a\0b",
        ] {
            let message = Message::builder("a")
                .header(name, "x")
                .data("x")
                .build()
                .unwrap();
            let error = to_headers(&message).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{name:?}");
        }
    }

    #[test]
    fn what_is_written_first_is_id_and_content_type() {
        let message = Message::builder("a")
            .header("tag", "1")
            .header("binary", &[0xff, 0][..])
            .content_type(ContentType::JSON)
            .data("x")
            .build()
            .unwrap();
        let headers = to_headers(&message).unwrap();
        let all: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
        assert_eq!(all[0], (MESSAGE_ID, Some(message.id().as_str().as_bytes())));
        assert_eq!(all[1], (CONTENT_TYPE, Some(&b"application/json"[..])));
        assert_eq!(all[2], ("tag", Some(&b"1"[..])));
        assert_eq!(all[3], ("binary", Some(&[0xff, 0][..])));
    }

    #[test]
    fn times_before_1970_are_refused() {
        let message = Message::builder("a")
            .time(from_unix_millis(-1))
            .data("x")
            .build()
            .unwrap();
        assert!(to_timestamp(&message).is_err());
    }
}
