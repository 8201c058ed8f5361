//! Answers of the server, taken apart.

use redis::{ErrorKind, RedisError, RedisResult, Value};

use crate::entry::EntryId;

/// An entry: its id, its fields.
pub(crate) type Entry = (EntryId, Value);

/// The entries of a list of them. Those that are gone are left out.
pub(crate) fn entries(value: Value) -> RedisResult<Vec<Entry>> {
    let Value::Array(entries) = value else {
        return match value {
            Value::Nil => Ok(Vec::new()),
            _ => Err(strange()),
        };
    };
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let Value::Array(mut parts) = entry else {
            continue;
        };
        let (Some(fields), Some(id)) = (parts.pop(), parts.pop()) else {
            return Err(strange());
        };
        all.push((entry_id(&id)?, fields));
    }
    Ok(all)
}

/// The entries of a read of one stream.
pub(crate) fn read(value: Value) -> RedisResult<Vec<Entry>> {
    let streams = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut stream)) => stream.pop(),
            _ => None,
        },
        Value::Map(mut streams) => streams.pop().map(|(_, entries)| entries),
        _ => None,
    };
    entries(streams.ok_or_else(strange)?)
}

pub(crate) fn entry_id(value: &Value) -> RedisResult<EntryId> {
    let Value::BulkString(text) = value else {
        return Err(strange());
    };
    let text = std::str::from_utf8(text).map_err(|_| strange())?;
    text.parse().map_err(|_| strange())
}

fn strange() -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "not an answer to this command",
    )
        .into()
}
