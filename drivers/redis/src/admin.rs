//! What is done to streams beside writing and reading.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use streams_core::{ErrorKind, IntoStreamName, Message, Result, StreamName};

use crate::config::SHORTEST_LEASE;
use crate::entry::EntryId;
use crate::error::{error, failed, is_no_key};
use crate::group::millis;
use crate::{Redis, message, reply, scripts};

impl Redis {
    /// Connects to the server or servers and logs in, so that wrong addresses and credentials show before
    /// the first message. Nobody has to: whatever needs a connection opens it.
    ///
    /// # Errors
    /// [`Unavailable`](streams_core::ErrorKind::Unavailable) or
    /// [`Timeout`](streams_core::ErrorKind::Timeout) when nobody answers,
    /// [`Permission`](streams_core::ErrorKind::Permission) when user and password are refused.
    pub async fn connect(&self) -> Result<()> {
        let mut ping = Cmd::new();
        ping.arg("PING");
        let _: Value = self.inner.link.command(&ping, "connect").await?;
        Ok(())
    }

    /// Makes a stream. One that exists is left as it is.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name,
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) when its key holds something else,
    /// and when the server cannot be reached.
    pub async fn create_stream(&self, stream: impl IntoStreamName) -> Result<()> {
        const DOING: &str = "create_stream";
        let stream = stream.into_stream_name()?;
        let mut create = scripts::CREATE.key(self.inner.keys(&stream).stream);
        // A stream without an entry is made with a group alone, of which it then has none.
        create.arg("streams-new");
        let link = &self.inner.link;
        let made: RedisResult<Value> = link
            .call(async |connection| create.invoke_async(connection).await)
            .await;
        made.map(drop)
            .map_err(|e| error(e, DOING).with("stream", &stream))
    }

    /// Deletes a stream with its groups and all that is kept of it, scheduled messages too; readers
    /// of it go on with what is written later. `false` says that there was none.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub async fn delete_stream(&self, stream: impl IntoStreamName) -> Result<bool> {
        const DOING: &str = "delete_stream";
        let stream = stream.into_stream_name()?;
        let keys = self.inner.keys(&stream);
        let groups = self.groups(&stream).await?;
        let mut delete = Cmd::new();
        delete
            .arg("DEL")
            .arg(&keys.stream)
            .arg(keys.due())
            .arg(keys.bodies());
        for group in &groups {
            delete.arg(&keys.of_group(group));
        }
        let deleted: u64 = self.inner.link.command(&delete, DOING).await?;
        Ok(deleted > 0)
    }

    /// Removes entries by their ids, handled or not; returns how many there were.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub async fn remove(&self, stream: impl IntoStreamName, entries: &[EntryId]) -> Result<u64> {
        let stream = stream.into_stream_name()?;
        if entries.is_empty() {
            return Ok(0);
        }
        let mut remove = Cmd::new();
        remove.arg("XDEL").arg(self.inner.keys(&stream).stream);
        for entry in entries {
            remove.arg(entry.to_string());
        }
        self.inner.link.command(&remove, "remove").await
    }

    /// Deletes a group and what it has pending; its members make it anew, from the oldest entry.
    /// `false` says that there was none.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    pub async fn delete_group(&self, stream: impl IntoStreamName, group: &str) -> Result<bool> {
        const DOING: &str = "delete_group";
        let stream = stream.into_stream_name()?;
        let keys = self.inner.keys(&stream);
        let mut delete = Cmd::new();
        delete.arg("DEL").arg(&keys.of_group(group));
        let _: u64 = self.inner.link.command(&delete, DOING).await?;
        let mut destroy = Cmd::new();
        destroy
            .arg("XGROUP")
            .arg("DESTROY")
            .arg(&keys.stream)
            .arg(group);
        let link = &self.inner.link;
        let destroyed: RedisResult<u64> = link
            .call(async |connection| destroy.query_async(connection).await)
            .await;
        match destroyed {
            Ok(destroyed) => Ok(destroyed > 0),
            Err(e) if is_no_key(&e) => Ok(false),
            Err(e) => Err(error(e, DOING).with("stream", &stream)),
        }
    }

    /// Changes the lease of a group for all its members. Those that run go by it when they subscribe
    /// anew; until then they begin leases anew as often as before, so make it longer rather than
    /// shorter while they run.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream);
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a lease of less than 500 ms.
    pub async fn set_lease(
        &self,
        stream: impl IntoStreamName,
        group: &str,
        lease: Duration,
    ) -> Result<()> {
        let stream = stream.into_stream_name()?;
        if lease < SHORTEST_LEASE {
            return Err(failed(
                ErrorKind::InvalidConfig,
                "set_lease",
                "the lease is too short to be kept up; use 500 ms or more",
            ));
        }
        let mut set = Cmd::new();
        set.arg("HSET").arg(self.inner.keys(&stream).facts(group));
        set.arg("lease").arg(millis(lease));
        let _: u64 = self.inner.link.command(&set, "set_lease").await?;
        Ok(())
    }

    /// The entries from one id to another, both included, at most `limit`, oldest first; and where to
    /// go on. They are neither taken nor acknowledged.
    ///
    /// # Errors
    /// As [`create_stream`](Self::create_stream).
    ///
    /// ```no_run
    /// # async fn doc(redis: streams_redis::Redis) -> streams_core::Result<()> {
    /// use streams_redis::EntryId;
    ///
    /// let mut from = EntryId::MIN;
    /// loop {
    ///     let page = redis.range("orders", from..=EntryId::MAX, 1000).await?;
    ///     for (id, message) in &page {
    ///         println!("{id}: {} bytes", message.data().len());
    ///     }
    ///     let Some((last, _)) = page.last() else { break };
    ///     from = last.next();
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn range(
        &self,
        stream: impl IntoStreamName,
        entries: RangeInclusive<EntryId>,
        limit: usize,
    ) -> Result<Vec<(EntryId, Message)>> {
        const DOING: &str = "range";
        let stream = stream.into_stream_name()?;
        let mut range = Cmd::new();
        range.arg("XRANGE").arg(self.inner.keys(&stream).stream);
        range.arg(entries.start().to_string());
        range.arg(entries.end().to_string());
        range.arg("COUNT").arg(limit);
        let answer: Value = self.inner.link.command(&range, DOING).await?;
        let entries = reply::entries(answer).map_err(|e| error(e, DOING))?;
        let decode = |(entry, fields)| {
            let message = message::decode(&stream, entry, message::pairs(fields))?;
            Ok((entry, message))
        };
        entries.into_iter().map(decode).collect()
    }

    /// The names of a stream's groups.
    async fn groups(&self, stream: &StreamName) -> Result<Vec<String>> {
        let mut info = Cmd::new();
        info.arg("XINFO").arg("GROUPS");
        info.arg(self.inner.keys(stream).stream);
        let link = &self.inner.link;
        let answer: RedisResult<Vec<HashMap<String, Value>>> = link
            .call(async |connection| info.query_async(connection).await)
            .await;
        let groups = match answer {
            Ok(groups) => groups,
            Err(e) if is_no_key(&e) => Vec::new(),
            Err(e) => return Err(error(e, "groups").with("stream", stream)),
        };
        let name = |mut group: HashMap<String, Value>| {
            let name = message::bytes(group.remove("name")?);
            String::from_utf8(name.into()).ok()
        };
        Ok(groups.into_iter().filter_map(name).collect())
    }
}
