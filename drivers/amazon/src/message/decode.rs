//! What came back, whoever wrote it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;
use streams_core::{
    ContentType, Headers, Key, Message, MessageId, Result, StreamName, from_unix_millis,
};

use super::packed::{Header, Packed};
use super::{
    BASE64, BODY_ENCODING, CONTENT_TYPE, DUE, FACTS, MESSAGE_ID, MESSAGE_TIME, PACKED, STREAM_KEY,
    STREAM_NAME,
};

/// What was received of a message.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The id that SQS gave it.
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) attributes: Attributes,
    /// Of a FIFO queue.
    pub(crate) group: Option<String>,
    /// When it was sent, by the clock of SQS.
    pub(crate) sent: Option<SystemTime>,
}

/// Attributes in the order of their names.
pub(crate) type Attributes = BTreeMap<String, Bytes>;

/// The time at which a message is to be delivered, where it says one.
pub(crate) fn due(attributes: &Attributes) -> Option<SystemTime> {
    let millis = text(attributes, DUE)?.parse().ok()?;
    Some(from_unix_millis(millis))
}

/// The message that was received, in the format above, in an envelope of SNS, or of another
/// program: without an id it gets the one that SQS gave it, which is the same each time.
///
/// # Errors
/// None but for an id of SQS's that is none.
pub(crate) fn decode(stream: &StreamName, received: Received) -> Result<Message> {
    let received = opened(received);
    let mut attributes = received.attributes;
    let mut take = |name: &str| attributes.remove(name).and_then(as_text);
    let packed = take(PACKED).map(|json| Packed::from_json(&json));
    let packed = packed.unwrap_or_default();

    let id = packed.id.or_else(|| take(MESSAGE_ID));
    let is_ours = id.is_some();
    let id = id.and_then(|id| MessageId::new(id).ok());
    let key = match take(STREAM_KEY).map(Key::from) {
        Some(key) => Some(key),
        None => packed.key.as_deref().map(Key::from),
    };
    // Another program's messages of one group belong together too.
    let group = received.group.filter(|_| !is_ours);
    let content_type = take(CONTENT_TYPE).or(packed.content_type);
    let time = take(MESSAGE_TIME).and_then(|time| time_of(&time));
    let is_base64 = take(BODY_ENCODING).is_some_and(|encoding| encoding == BASE64);
    take(STREAM_NAME);
    take(DUE);

    Message::builder(stream)
        .id(match id {
            Some(id) => id,
            None => MessageId::new(&received.id)?,
        })
        .maybe_key(key.or_else(|| group.map(Key::from)))
        .headers(headers(attributes, packed.headers))
        .content_type(content_type.map_or(ContentType::BYTES, ContentType::new))
        .data(data(received.body, is_base64))
        .time(time.or(received.sent).unwrap_or_else(SystemTime::now))
        .build_received()
}

fn data(body: String, is_base64: bool) -> Bytes {
    if is_base64 && let Ok(data) = BASE64_STANDARD.decode(&body) {
        return data.into();
    }
    body.into()
}

/// In the order in which they were written, those that nobody names behind.
fn headers(mut attributes: Attributes, order: Option<Vec<Header>>) -> Headers {
    let mut all = Headers::new();
    for header in order.into_iter().flatten() {
        match header {
            Header::Packed(name, value) => append(&mut all, name, value.into()),
            Header::Attribute(name) => {
                if let Some(value) = attributes.remove(&name) {
                    append(&mut all, name, value);
                }
            }
        }
    }
    for (name, value) in attributes {
        append(&mut all, name, value);
    }
    all
}

fn append(headers: &mut Headers, name: String, value: Bytes) {
    if !name.is_empty() && !name.starts_with(FACTS) {
        headers.append(name, value);
    }
}

/// Milliseconds, as through SQS, or RFC 3339, as through SNS.
fn time_of(text: &str) -> Option<SystemTime> {
    if let Ok(millis) = text.parse() {
        return Some(from_unix_millis(millis));
    }
    let time = DateTime::from_str(text, Format::DateTimeWithOffset).ok()?;
    SystemTime::try_from(time).ok()
}

fn text<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    std::str::from_utf8(attributes.get(name)?).ok()
}

fn as_text(value: Bytes) -> Option<String> {
    String::from_utf8(value.into()).ok()
}

/// Takes a message out of the envelope that SNS puts it in where the subscription has no raw
/// delivery.
fn opened(received: Received) -> Received {
    let is_envelope = !received.attributes.contains_key(MESSAGE_ID)
        && received.body.starts_with('{')
        && received.body.contains("TopicArn");
    if !is_envelope {
        return received;
    }
    let Ok(Value::Object(envelope)) = serde_json::from_str(&received.body) else {
        return received;
    };
    let text = |name: &str| envelope.get(name).and_then(Value::as_str);
    let (Some("Notification"), Some(_), Some(body)) =
        (text("Type"), text("TopicArn"), text("Message"))
    else {
        return received;
    };
    let mut attributes = received.attributes;
    let inner = envelope.get("MessageAttributes").and_then(Value::as_object);
    for (name, attribute) in inner.into_iter().flatten() {
        let part = |name: &str| attribute.get(name).and_then(Value::as_str);
        let value = match (part("Type"), part("Value")) {
            (Some("Binary"), Some(value)) => BASE64_STANDARD.decode(value).ok().map(Bytes::from),
            (_, Some(value)) => Some(Bytes::copy_from_slice(value.as_bytes())),
            _ => None,
        };
        if let Some(value) = value {
            attributes.insert(name.clone(), value);
        }
    }
    Received {
        id: text("MessageId").unwrap_or(&received.id).to_owned(),
        body: body.to_owned(),
        attributes,
        group: received.group,
        sent: text("Timestamp").and_then(time_of).or(received.sent),
    }
}
