//! Where to start.

use redis::{Cmd, Value};
use streams_core::{Error, ErrorKind, Result, StartFrom};

use crate::DRIVER;
use crate::client::Link;
use crate::entry::EntryId;
use crate::error::{error, is_no_key};
use crate::reply::entry_id;

/// The id after which reading begins; `None` is after the last there is.
pub(crate) fn after(start: &StartFrom) -> Result<Option<EntryId>> {
    Ok(match start {
        StartFrom::Default | StartFrom::Earliest => Some(EntryId::MIN),
        StartFrom::Latest => None,
        // Reads go on after an id, and the start is inclusive.
        StartFrom::Position(id) => Some(id.parse::<EntryId>()?.before()),
        StartFrom::Time(time) => Some(EntryId::first_at(*time).before()),
        _ => {
            return Err(Error::unsupported(
                DRIVER,
                "Redis cannot start there; start from the earliest, the latest, an id or a time",
            )
            .operation("subscribe"));
        }
    })
}

/// The highest id the stream has had, `None` if there is no stream.
pub(crate) async fn last(link: &Link, key: &str, doing: &'static str) -> Result<Option<EntryId>> {
    let mut info = Cmd::new();
    info.arg("XINFO").arg("STREAM").arg(key);
    let answer: redis::RedisResult<Value> = link
        .call(async |connection| info.query_async(connection).await)
        .await;
    let facts = match answer {
        Ok(Value::Array(facts)) => facts,
        Ok(Value::Map(facts)) => facts.into_iter().flat_map(|(k, v)| [k, v]).collect(),
        Ok(_) => Vec::new(),
        Err(e) if is_no_key(&e) => return Ok(None),
        Err(e) => return Err(error(e, doing)),
    };
    let named = |name: &Value| matches!(name, Value::BulkString(n) if n == b"last-generated-id");
    let last = facts.chunks(2).find(|pair| named(&pair[0]));
    let Some([_, id]) = last else {
        return Err(Error::new(
            ErrorKind::Other,
            "the server does not tell the last id of the stream; is it Redis, 7.0 or later?",
        )
        .operation(doing)
        .driver(DRIVER));
    };
    entry_id(id).map(Some).map_err(|e| error(e, doing))
}
