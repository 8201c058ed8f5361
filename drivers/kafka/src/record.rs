//! Which messages can be written, and how large they are as records.

use streams_core::{Error, ErrorKind, Message, Result};

use crate::config::{Config, DRIVER};

/// The head of a batch of records.
const BATCH_HEAD: usize = 61;

/// The size of a batch of this one record, in bytes, without compression.
pub(crate) fn batch_size(message: &Message) -> usize {
    let sized = |bytes: usize| varint(bytes) + bytes;
    let header = |name: &str, value: usize| sized(name.len()) + sized(value);
    let own = [
        (crate::message::MESSAGE_ID, message.id().as_str().len()),
        (
            crate::message::CONTENT_TYPE,
            message.content_type().as_str().len(),
        ),
    ];
    let headers = message.headers();
    let body = 3 // attributes, and the distances to the batch's time and offset
        + message.key().map_or(1, |key| sized(key.as_bytes().len()))
        + sized(message.data().len())
        + varint(headers.len() + own.len())
        + own.iter().map(|(name, value)| header(name, *value)).sum::<usize>()
        + headers.iter().map(|(name, value)| header(name, value.len())).sum::<usize>();
    BATCH_HEAD + sized(body)
}

/// The bytes of a length on the wire, where small numbers are short.
fn varint(length: usize) -> usize {
    // One bit is the sign's.
    let bits = usize::BITS - length.leading_zeros() + 1;
    bits.div_ceil(7) as usize
}

/// Refuses what cannot be written whatever the topic. `size` is its [`batch_size`].
pub(crate) fn check(config: &Config, message: &Message, size: usize) -> Result<()> {
    let data = message.data().len();
    let error = if data == 0 && message.key().is_none() {
        Error::new(
            ErrorKind::EmptyMessage,
            "the message has no data; set it with `data`, or a key to have it delete what was \
             written under that",
        )
    } else if data > config.largest_message {
        Error::new(
            ErrorKind::TooLarge,
            "the data is larger than `largest_message` of the driver; split it, or raise that and \
             the topic's `max.message.bytes`",
        )
        .with("size", data)
        .with("limit", config.largest_message)
    } else if size > config.largest_record() {
        Error::new(
            ErrorKind::TooLarge,
            "the message with its key and headers is larger than the driver sends; make them \
             smaller, or raise `largest_message`",
        )
        .with("size", size)
        .with("limit", config.largest_record())
    } else {
        return Ok(());
    };
    Err(error
        .operation("write")
        .driver(DRIVER)
        .with("topic", message.stream()))
}

/// Refuses what the topic does not take. `size` is its [`batch_size`].
pub(crate) fn check_topic(message: &Message, size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        "the message with its key and headers is larger than the topic takes; split it, or raise \
         the topic's `max.message.bytes`",
    )
    .operation("write")
    .driver(DRIVER)
    .with("topic", message.stream())
    .with("size", size)
    .with("limit", limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (8191, 2), (8192, 3), (1 << 20, 4)] {
            assert_eq!(varint(length), bytes, "{length}");
        }
    }
}
