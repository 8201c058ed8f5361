//! Messages as entries of a stream, in the format of the Go library `pulse`, with fields of our own
//! that it does not look at.
//!
//! | field | what |
//! | --- | --- |
//! | `n` | pulse's event name: header `streams-event-name`, else the stream's name |
//! | `p` | the data |
//! | `t` | pulse's topic, if any: header `streams-topic` |
//! | `i` | the message's id |
//! | `c` | the content type, unless it is `application/octet-stream` |
//! | `m` | the time, in milliseconds since 1970 |
//! | `k` | the key, if any |
//! | `h:<name>` | a header |
//!
//! An entry of pulse's own has no id: it gets one of its stream and entry id, the same each time; and
//! no time: it has that of its entry id.

use bytes::Bytes;
use redis::{Cmd, Value};
use streams_core::{
    ContentType, Headers, Key, Message, MessageId, Result, StreamName, from_unix_millis,
    unix_millis,
};

use crate::entry::EntryId;

/// The header that is pulse's event name.
pub const EVENT_NAME: &str = "streams-event-name";
/// The header that is pulse's topic.
pub const TOPIC: &str = "streams-topic";

/// Calls `each` with every name and value of a message's entry.
pub(crate) fn fields(message: &Message, mut each: impl FnMut(&[u8], &[u8])) {
    let headers = message.headers();
    let stream = message.stream().as_str();
    let event = headers
        .get_str(EVENT_NAME)
        .filter(|name| !name.is_empty() && *name != stream);
    let topic = headers.get_str(TOPIC).filter(|topic| !topic.is_empty());
    each(b"n", event.unwrap_or(stream).as_bytes());
    each(b"p", message.data());
    if let Some(topic) = topic {
        each(b"t", topic.as_bytes());
    }
    each(b"i", message.id().as_str().as_bytes());
    if message.content_type() != &ContentType::BYTES {
        each(b"c", message.content_type().as_str().as_bytes());
    }
    let mut time = Decimal::default();
    each(b"m", time.of(unix_millis(message.time())));
    if let Some(key) = message.key() {
        each(b"k", key.as_bytes());
    }
    if headers.is_empty() {
        return;
    }
    // The first of these is in a field already.
    let mut skip = [(EVENT_NAME, event.is_some()), (TOPIC, topic.is_some())];
    let mut field = Vec::new();
    for (name, value) in headers.iter() {
        if let Some(first) = skip.iter_mut().find(|(known, _)| *known == name)
            && std::mem::take(&mut first.1)
        {
            continue;
        }
        field.clear();
        field.extend_from_slice(b"h:");
        field.extend_from_slice(name.as_bytes());
        each(&field, value);
    }
}

/// The command that adds a message.
pub(crate) fn add(key: &str, message: &Message, create: bool) -> Cmd {
    let mut add = Cmd::with_capacity(16, message.size() + 128);
    add.arg("XADD").arg(key);
    if !create {
        add.arg("NOMKSTREAM");
    }
    add.arg("*");
    fields(message, |name, value| {
        add.arg(name).arg(value);
    });
    add
}

/// The message of an entry.
///
/// # Errors
/// None but for a stream name that cannot be: whatever is in an entry, it is a message.
pub(crate) fn decode(
    stream: &StreamName,
    entry: EntryId,
    fields: impl Iterator<Item = (Bytes, Bytes)>,
) -> Result<Message> {
    let mut builder = Message::builder(stream);
    let mut headers = Headers::new();
    let (mut id, mut time, mut named) = (None, None, false);
    for (name, value) in fields {
        match &*name {
            b"p" => builder = builder.data(value),
            b"n" => {
                named = true;
                if value != stream.as_str().as_bytes() {
                    headers.append(EVENT_NAME, value);
                }
            }
            b"t" => headers.append(TOPIC, value),
            b"i" => id = text(&value).and_then(|text| MessageId::new(text).ok()),
            b"c" => {
                if let Some(content_type) = text(&value) {
                    builder = builder.content_type(ContentType::new(content_type));
                }
            }
            b"m" => time = text(&value).and_then(|text| text.parse().ok()),
            b"k" => builder = builder.key(Key::from(&*value)),
            other => {
                // What another program adds beside is kept under its own name.
                let name = other.strip_prefix(b"h:").unwrap_or(other);
                if let Some(name) = text(name).filter(|name| !name.is_empty()) {
                    headers.append(name.to_owned(), value);
                }
            }
        }
    }
    let id = match id {
        Some(id) => id,
        None => {
            // An event of pulse's has its name also where that is the stream's.
            if named && headers.get(EVENT_NAME).is_none() {
                headers.append(EVENT_NAME, stream.as_str().to_owned());
            }
            derived(stream, entry)?
        }
    };
    builder
        .id(id)
        .time(time.map_or_else(|| entry.time(), from_unix_millis))
        .headers(headers)
        .build_received()
}

/// The id of a message whose entry has none.
fn derived(stream: &StreamName, entry: EntryId) -> Result<MessageId> {
    let id = format!("{stream}:{entry}");
    // A very long name is left out: the id is unique within the stream all the same.
    MessageId::new(id).or_else(|_| MessageId::new(entry.to_string()))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Names and values of an entry in an answer. What is no text or number is left out.
pub(crate) fn pairs(fields: Value) -> impl Iterator<Item = (Bytes, Bytes)> {
    let fields = match fields {
        Value::Array(fields) => fields,
        _ => Vec::new(),
    };
    let mut fields = fields.into_iter();
    std::iter::from_fn(move || Some((bytes(fields.next()?), bytes(fields.next()?))))
}

pub(crate) fn bytes(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into_bytes().into(),
        Value::Int(number) => number.to_string().into_bytes().into(),
        _ => Bytes::new(),
    }
}

/// A number as text, without an allocation.
#[derive(Default)]
struct Decimal([u8; 20]);

impl Decimal {
    fn of(&mut self, number: i64) -> &[u8] {
        use std::io::Write;
        let mut rest = &mut self.0[..];
        // 20 bytes hold every number of 64 bits.
        let written = write!(rest, "{number}").map(|()| rest.len()).unwrap_or(0);
        let end = self.0.len() - written;
        &self.0[..end]
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
