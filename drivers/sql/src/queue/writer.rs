//! Writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use streams_core::{
    Capabilities, Error, ErrorKind, Message, MessageId, Result, Scheduled, StreamName, WriteError,
    Writer, async_trait, from_unix_millis, unix_millis_not_before,
};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::rows::message;
use super::settle::is_unknown;
use super::store::{Lock, Store, Tries};
use super::streams::Holders;
use crate::DRIVER;
use crate::database::{Database, Value};
use crate::error::error;

/// So many writes share one look for messages that were kept long enough.
const CLEAN_EVERY: u64 = 256;

pub(crate) struct QueueWriter<DB: Database> {
    store: Arc<Store<DB>>,
    capabilities: Capabilities,
    /// Whether it is closed. Writes hold it shared, so that closing waits for them.
    closed: RwLock<bool>,
    writes: AtomicU64,
}

impl<DB: Database> QueueWriter<DB> {
    pub(crate) fn new(store: Arc<Store<DB>>) -> Self {
        Self {
            capabilities: store.config.capabilities(),
            store,
            closed: RwLock::new(false),
            writes: AtomicU64::new(0),
        }
    }

    /// Begins a write, unless closed.
    async fn begin(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let closed = self.closed.read().await;
        if *closed {
            return Err(Error::closed("the writer").driver(DRIVER));
        }
        #[cfg(feature = "postgres")]
        self.store.tell_others();
        Ok(closed)
    }

    /// The messages that can be written, each with its place in the batch and the id of its stream;
    /// and why others cannot.
    async fn sort<'a>(&self, batch: &'a [Message]) -> (Vec<(usize, i64, &'a Message)>, Failures) {
        let mut good = Vec::with_capacity(batch.len());
        let mut bad = Failures::new();
        for (index, message) in batch.iter().enumerate() {
            if let Some(error) = self.store.config.refuse(message) {
                bad.push((index, error));
                continue;
            }
            match self.store.stream(message.stream()).await {
                Ok(stream) => good.push((index, stream, message)),
                Err(error) => bad.push((index, error.operation("write"))),
            }
        }
        (good, bad)
    }

    async fn write_all(&self, batch: &[Message], due: Option<i64>) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let failures = match self.begin().await {
            Ok(_begun) => self.failures(batch, due).await,
            Err(closed) => WriteError::same(closed, 0..batch.len()),
        };
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn failures(&self, batch: &[Message], due: Option<i64>) -> Failures {
        let sorted = self
            .store
            .within("write", async { Ok(self.sort(batch).await) });
        let (good, mut failures) = match sorted.await {
            Ok(sorted) => sorted,
            Err(error) => return WriteError::same(error, 0..batch.len()),
        };
        if good.is_empty() {
            return failures;
        }
        let messages: Vec<_> = good.iter().map(|(_, s, message)| (*s, *message)).collect();
        if let Err(error) = self.commit(&messages, due, "write").await {
            failures.extend(WriteError::same(
                error,
                good.iter().map(|(index, ..)| *index),
            ));
        }
        failures
    }

    /// Writes messages in one transaction, each with the id of its stream.
    async fn commit(
        &self,
        messages: &[(i64, &Message)],
        due: Option<i64>,
        doing: &'static str,
    ) -> Result<()> {
        let store = &self.store;
        let mut tries = Tries::default();
        loop {
            let done = store
                .within(doing, store.commit(messages, due, doing))
                .await;
            match done {
                Err(error) if tries.again(&error).await => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let mut streams: Vec<_> = messages.iter().map(|(stream, _)| *stream).collect();
        streams.sort_unstable();
        streams.dedup();
        for stream in &streams {
            store.wake.wake(*stream);
        }
        let writes = self.writes.fetch_add(1, Ordering::Relaxed);
        if writes.is_multiple_of(CLEAN_EVERY) {
            let store = store.clone();
            tokio::spawn(async move {
                for stream in streams {
                    if let Err(error) = store.forget_old(stream).await {
                        tracing::debug!(%error, "old messages are deleted another time");
                    }
                }
            });
        }
        Ok(())
    }
}

impl<DB: Database> Store<DB> {
    async fn commit(
        &self,
        messages: &[(i64, &Message)],
        due: Option<i64>,
        doing: &'static str,
    ) -> Result<()> {
        let failed = |e| error(e, doing);
        let streams: Vec<_> = messages.iter().map(|(stream, _)| *stream).collect();
        let lock = match (due, self.config.max_scheduled) {
            (Some(_), Some(_)) => Lock::Alone,
            _ => Lock::Shared,
        };
        let mut tx = self.begin_locked(&streams, lock, doing).await?;
        let (holders, now) = self.all_holders(&mut tx, &streams).await?;
        let inserted = match due {
            Some(due) if due > now => {
                self.check_room(&mut tx, &streams).await?;
                self.insert_scheduled(&mut tx, messages, due).await
            }
            _ => self.insert(&mut tx, messages, &holders).await,
        };
        inserted.map_err(failed)?;
        tx.commit().await.map_err(|e| {
            let failure = failed(e);
            match failure.kind() {
                ErrorKind::Conflict => failure,
                // It may have been committed.
                _ => failure.with("committed", "unknown"),
            }
        })
    }

    /// Checks that there is room for more scheduled messages, each of a stream.
    async fn check_room(&self, connection: &mut DB::Connection, streams: &[i64]) -> Result<()> {
        let Some(most) = self.config.max_scheduled else {
            return Ok(());
        };
        let most = most as usize;
        let table = &self.names.scheduled;
        let count = Self::sql(&format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE stream_id = ? LIMIT {most}) AS waiting"
        ));
        let mut sorted = streams.to_vec();
        sorted.sort_unstable();
        for more in sorted.chunk_by(|a, b| a == b) {
            let rows = DB::fetch(connection, &count, &[Value::Int(more[0])]).await;
            let waiting = rows.and_then(|rows| rows.first().map_or(Ok(0), |row| DB::int(row, 0)));
            let waiting = waiting.map_err(|e| error(e, "write_at"))?;
            if usize::try_from(waiting).unwrap_or(most) + more.len() > most {
                let problem = "as many messages are scheduled as may be; try again later, or raise \
                               `max_scheduled`";
                return Err(Error::new(ErrorKind::Full, problem)
                    .operation("write_at")
                    .driver(DRIVER)
                    .with("limit", most)
                    // More than may be at all will not fit later either.
                    .retryable(more.len() <= most));
            }
        }
        Ok(())
    }

    /// The first messages that are scheduled for a stream.
    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        self.check().await?;
        let Some(id) = self.look_up(stream).await? else {
            return Ok(Vec::new());
        };
        let table = &self.names.scheduled;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let select = Self::sql(&format!(
            "SELECT message_id, raw_data, deliver_at FROM {table} WHERE stream_id = ? \
             ORDER BY deliver_at, id LIMIT {limit}"
        ));
        let failed = |e| error(e, "scheduled").with("stream", stream);
        let mut connection = self.connection("scheduled").await?;
        let rows = DB::fetch(&mut connection, &select, &[Value::Int(id)]).await;
        let rows = rows.map_err(failed)?;
        let scheduled = |row| {
            let due = from_unix_millis(DB::int(row, 2)?);
            Ok(Scheduled::new(message::<DB>(row, 0, 1, stream)?, due))
        };
        let all: sqlx::Result<_> = rows.iter().map(scheduled).collect();
        all.map_err(failed)
    }

    /// Takes back a scheduled message; `false` if there is none of that id.
    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        self.check().await?;
        let Some(stream) = self.look_up(stream).await? else {
            return Ok(false);
        };
        let table = &self.names.scheduled;
        let delete = format!("DELETE FROM {table} WHERE stream_id = ? AND message_id = ?");
        let values = [Value::Int(stream), Value::Text(id.as_str())];
        Ok(self.execute(&delete, &values, "cancel").await? > 0)
    }

    /// Writes what came of handling messages, in the transaction that settles them.
    pub(crate) async fn write_outputs(
        &self,
        connection: &mut DB::Connection,
        streams: &[i64],
        messages: &[(i64, &Message)],
    ) -> Result<()> {
        let (holders, _) = self.all_holders(connection, streams).await?;
        let inserted = self.insert(connection, messages, &holders).await;
        inserted.map_err(|e| error(e, "settle"))
    }

    /// Who holds these streams, which must all be there; and the time.
    async fn all_holders(
        &self,
        connection: &mut DB::Connection,
        streams: &[i64],
    ) -> Result<(Holders, i64)> {
        let holders = self.holders(connection, streams).await;
        let (holders, now) = holders.map_err(|e| error(e, "write"))?;
        if streams.iter().all(|stream| holders.contains_key(stream)) {
            return Ok((holders, now));
        }
        self.known()
            .retain(|_, id| holders.contains_key(id) || !streams.contains(id));
        // Tried again, it looks the stream up, and makes a new one where it may.
        Err(Error::new(
            ErrorKind::NotFound,
            "the stream was deleted; write again to make a new one, or make it first",
        )
        .operation("write")
        .driver(DRIVER)
        .retryable(true))
    }
}

type Failures = Vec<(usize, Error)>;

#[async_trait]
impl<DB: Database> Writer for QueueWriter<DB> {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.write_all(batch, None).await
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.write_all(batch, Some(unix_millis_not_before(due)))
            .await
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        let _begun = self.begin().await?;
        self.store
            .within("cancel", self.store.cancel(stream, id))
            .await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        let _begun = self.begin().await?;
        self.store
            .within("scheduled", self.store.scheduled(stream, limit))
            .await
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        const DOING: &str = "write_in_transaction";
        let _begun = self.begin().await?;
        let sort = async { Ok(self.sort(batch).await) };
        let (good, bad) = self.store.within(DOING, sort).await?;
        if let Some((index, error)) = bad.into_iter().next() {
            return Err(error.operation(DOING).with("index", index));
        }
        if good.is_empty() {
            return Ok(());
        }
        let messages: Vec<_> = good.iter().map(|(_, s, message)| (*s, *message)).collect();
        self.commit(&messages, None, DOING).await.map_err(|error| {
            // Only what is known to have left nothing may be tried again.
            let unknown = error.kind() == ErrorKind::Timeout || is_unknown(&error);
            let retryable = error.is_retryable() && !unknown;
            error.retryable(retryable)
        })
    }

    async fn flush(&self) -> Result<()> {
        // Writes that have begun hold it shared.
        drop(self.closed.write().await);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
