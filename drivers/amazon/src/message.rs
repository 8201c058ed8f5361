//! Messages as those of SQS and SNS and back, in the format of the Go services.
//!
//! | message | SQS |
//! | --- | --- |
//! | stream | queue, and attribute `streams-stream-name` |
//! | data | body; in base64, with the attribute `streams-body-encoding`, where it is not text |
//! | id, key, content type | attributes `streams-message-id`, `-stream-key`, `-content-type` |
//! | time | attribute `streams-message-time`: SQS milliseconds, SNS RFC 3339 |
//! | headers | attributes of their own names |
//! | what has no place there | JSON in the attribute `streams-packed` |
//!
//! SQS takes ten attributes, in no order, of some names and of text that is not empty. Headers beyond
//! that are packed, and so is their order, where it is not that of the names.

#[cfg(feature = "sqs")]
mod decode;
mod packed;

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
#[cfg(feature = "sqs")]
pub(crate) use decode::{Attributes, Received, decode, due};
use packed::{Header, Packed};
use streams_core::{Error, ErrorKind, Message, Result, unix_millis};

use crate::text::{is_attribute_name, is_sendable};

pub(crate) const MESSAGE_ID: &str = "streams-message-id";
pub(crate) const STREAM_NAME: &str = "streams-stream-name";
pub(crate) const STREAM_KEY: &str = "streams-stream-key";
pub(crate) const CONTENT_TYPE: &str = "streams-content-type";
pub(crate) const MESSAGE_TIME: &str = "streams-message-time";
/// Says that the body is in base64.
pub(crate) const BODY_ENCODING: &str = "streams-body-encoding";
pub(crate) const BASE64: &str = "base64";
/// What has no place elsewhere, in JSON.
pub(crate) const PACKED: &str = "streams-packed";
/// When a message is to be delivered that waits longer than SQS delays, in milliseconds.
pub(crate) const DUE: &str = "streams-due-time";

/// What the names of the format begin with.
const FORMAT: &str = "streams-";
/// What the names of the reader's facts begin with.
const FACTS: &str = "sqs-message-";
/// The most attributes of a message, which is also what SNS passes on to a queue.
const MOST_ATTRIBUTES: usize = 10;
/// The type of an attribute, which counts as much as its value.
const STRING: &str = "String";

/// A message as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) body: String,
    pub(crate) attributes: Vec<(String, String)>,
    /// Through SNS only.
    pub(crate) subject: Option<String>,
    /// Whether the body is JSON that has one for each protocol, through SNS only.
    pub(crate) is_structured: bool,
}

impl Encoded {
    /// The bytes that count towards the largest request: the body, and names, types and values of
    /// the attributes.
    pub(crate) fn size(&self) -> usize {
        let attribute = |(name, value): &(String, String)| name.len() + STRING.len() + value.len();
        self.body.len() + self.attributes.iter().map(attribute).sum::<usize>()
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.attributes.push((name.to_owned(), value.into()));
    }
}

/// How a message is written.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    /// How many attributes there may be.
    most: usize,
    time: fn(SystemTime) -> String,
    /// Headers that are attributes before any other.
    first: Vec<String>,
}

impl Wire {
    /// To SQS. An attribute is kept for [`DUE`].
    #[cfg(feature = "sqs")]
    pub(crate) const SQS: Self = Self {
        most: MOST_ATTRIBUTES - 1,
        time: |time| unix_millis(time).to_string(),
        first: Vec::new(),
    };

    /// To SNS.
    #[cfg(feature = "sns")]
    pub(crate) fn sns(first: Vec<String>) -> Self {
        Self {
            most: MOST_ATTRIBUTES,
            time: rfc_3339,
            first,
        }
    }
}

/// In milliseconds where it is too far away for a date.
#[cfg(feature = "sns")]
fn rfc_3339(time: SystemTime) -> String {
    use aws_smithy_types::DateTime;
    use aws_smithy_types::date_time::Format;
    let millis = unix_millis(time);
    let date = DateTime::from_millis(millis).fmt(Format::DateTime);
    date.unwrap_or_else(|_| millis.to_string())
}

/// The message as it is sent.
///
/// # Errors
/// [`ErrorKind::EmptyMessage`] without data, [`ErrorKind::InvalidMessage`] for a header under the name
/// of a reader's fact, and for one that is to be an attribute and cannot be.
pub(crate) fn encode(message: &Message, wire: &Wire) -> Result<Encoded> {
    if message.data().is_empty() {
        return Err(Error::new(
            ErrorKind::EmptyMessage,
            "a message needs data, for no body may be empty; set it with `data`",
        ));
    }
    let text = std::str::from_utf8(message.data()).ok();
    let (body, is_base64) = match text.filter(|text| is_sendable(text)) {
        Some(text) => (text.to_owned(), false),
        None => (BASE64_STANDARD.encode(message.data()), true),
    };
    let mut encoded = Encoded {
        body,
        attributes: Vec::with_capacity(MOST_ATTRIBUTES),
        subject: None,
        is_structured: false,
    };
    let mut packed = Packed::default();
    if is_base64 {
        encoded.add(BODY_ENCODING, BASE64);
    }
    match message.id().as_str() {
        id if is_sendable(id) => encoded.add(MESSAGE_ID, id),
        id => packed.id = Some(id.to_owned()),
    }
    encoded.add(STREAM_NAME, message.stream().as_str());
    if let Some(key) = message.key() {
        match key.as_str().filter(|key| is_sendable(key)) {
            Some(key) => encoded.add(STREAM_KEY, key),
            None => packed.key = Some(key.as_bytes().to_vec()),
        }
    }
    match message.content_type().as_str() {
        content_type if is_sendable(content_type) => encoded.add(CONTENT_TYPE, content_type),
        content_type => packed.content_type = Some(content_type.to_owned()),
    }
    encoded.add(MESSAGE_TIME, (wire.time)(message.time()));
    add_headers(message, wire, &mut encoded, &mut packed)?;
    if let Some(json) = packed.to_json() {
        encoded.add(PACKED, json);
    }
    Ok(encoded)
}

/// Adds headers, as attributes where they can be.
fn add_headers(
    message: &Message,
    wire: &Wire,
    encoded: &mut Encoded,
    packed: &mut Packed,
) -> Result<()> {
    let headers = message.headers();
    if let Some((name, _)) = headers.iter().find(|(name, _)| name.starts_with(FACTS)) {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            format!(
                "the header name {name:?} is that of a fact of the reader's, which would be stale; \
                 use another name"
            ),
        ));
    }
    let room = |encoded: &Encoded| wire.most - encoded.attributes.len();
    let is_packed = usize::from(!packed.is_empty());
    let in_order = headers.iter().is_sorted_by(|(a, _), (b, _)| a < b);
    let all_plain = headers.iter().all(|(n, v)| as_attribute(n, v).is_some());
    if in_order && all_plain && headers.len() + is_packed <= room(encoded) {
        for (name, value) in headers.iter().filter_map(|(n, v)| as_attribute(n, v)) {
            encoded.add(name, value);
        }
        return Ok(());
    }
    let is_first = |name: &str| wire.first.iter().any(|first| first == name);
    // One is kept for what is packed.
    let of_first = headers.iter().filter(|(name, _)| is_first(name)).count();
    let mut others = (room(encoded) - 1).saturating_sub(of_first);
    let mut all = Vec::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let is_only = headers.get_all(name).nth(1).is_none();
        match as_attribute(name, value).filter(|_| is_only) {
            Some((name, value)) if is_first(name) || others > 0 => {
                others -= usize::from(!is_first(name));
                encoded.add(name, value);
                all.push(Header::Attribute(name.to_owned()));
            }
            _ if is_first(name) => return Err(is_no_attribute(name)),
            _ => all.push(Header::Packed(name.to_owned(), value.to_vec())),
        }
    }
    packed.headers = Some(all);
    Ok(())
}

fn is_no_attribute(name: &str) -> Error {
    Error::new(
        ErrorKind::InvalidMessage,
        format!(
            "the header {name:?} is to be an attribute for filter policies, and cannot be one; give it \
             one value, of text that is not empty"
        ),
    )
}

/// The header as an attribute, where it can be one.
fn as_attribute<'a>(name: &'a str, value: &'a [u8]) -> Option<(&'a str, &'a str)> {
    let value = std::str::from_utf8(value).ok()?;
    let can_be = is_attribute_name(name) && !name.starts_with(FORMAT) && is_sendable(value);
    can_be.then_some((name, value))
}

#[cfg(all(test, feature = "sqs"))]
mod properties;

#[cfg(all(test, feature = "sqs"))]
mod tests;
