//! Messages as rows.

use streams_core::{ContentType, Message, MessageId, Result, StreamName, unix_millis};
use streams_outbox::{decode, encode};

use crate::DRIVER;
use crate::database::{Database, Value};

/// A message as it goes into a row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) message_id: String,
    pub(crate) key_hash: Option<i64>,
    pub(crate) time: i64,
    pub(crate) raw_data: Vec<u8>,
}

impl Row {
    pub(crate) fn of(message: &Message) -> Self {
        Self {
            message_id: message.id().as_str().to_owned(),
            key_hash: message.key().map(|key| hash(key.as_bytes())),
            time: unix_millis(message.time()),
            raw_data: encode(std::slice::from_ref(message)),
        }
    }

    /// Its values for [`COLUMNS`].
    pub(crate) fn values(&self) -> [Value<'_>; 4] {
        [
            Value::MaybeInt(self.key_hash),
            Value::Text(&self.message_id),
            Value::Int(self.time),
            Value::Bytes(&self.raw_data),
        ]
    }
}

/// The columns that hold a message.
pub(crate) const COLUMNS: &str = "key_hash, message_id, time, raw_data";

/// The message of a row.
///
/// Raw data that is none of ours (somebody wrote the row by hand) becomes the message's data: its
/// handler cannot decode it, and so it goes where such messages go.
pub(crate) fn message<DB: Database>(
    row: &DB::Row,
    id: usize,
    raw: usize,
    stream: &StreamName,
) -> sqlx::Result<Message> {
    let (id, raw) = (DB::text(row, id)?, DB::bytes(row, raw)?);
    let decoded = decode(DRIVER, id, raw).ok().and_then(|mut messages| {
        let one = messages.pop().filter(|_| messages.is_empty())?;
        (one.stream() == stream).then_some(one)
    });
    match decoded {
        Some(message) => Ok(message),
        None => as_it_is(id, raw, stream).map_err(|e| sqlx::Error::Decode(e.into())),
    }
}

fn as_it_is(id: &str, raw: &[u8], stream: &StreamName) -> Result<Message> {
    tracing::warn!(%stream, id, "a row holds no message of this crate; its data is handed out as it is");
    let builder = Message::builder(stream)
        .content_type(ContentType::BYTES)
        .data(raw.to_vec());
    match MessageId::new(id) {
        Ok(id) => builder.id(id).build_received(),
        Err(_) => builder.build_received(),
    }
}

/// FNV-1a, 64 bits: the same in every process and version, for it stands in the tables. Keys with the
/// same hash wait for each other, and that is all.
pub(crate) fn hash(bytes: &[u8]) -> i64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b"").cast_unsigned(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar").cast_unsigned(), 0x8594_4171_f739_67e8);
    }
}
