//! Streams and groups: looked up, made, deleted.

use std::collections::BTreeMap;

use streams_core::{Error, ErrorKind, Result, StartFrom, StreamName, unix_millis};

use super::store::{List, Lock, Names, Store, Tries, millis};
use crate::DRIVER;
use crate::database::{Database, Dialect, Value};
use crate::error::error;

/// Rows deleted in one transaction.
const CHUNK: u64 = 1000;

/// Who gets the messages of a stream: its groups, and the stream itself, under its negative id, while
/// messages are kept for groups to come.
pub(crate) type Holders = BTreeMap<i64, Vec<i64>>;

impl<DB: Database> Store<DB> {
    /// The id of a stream, which is made if it is not there and the settings say so.
    pub(crate) async fn stream(&self, name: &StreamName) -> Result<i64> {
        if let Some(id) = self.known().get(name) {
            return Ok(*id);
        }
        self.check().await?;
        let id = match self.look_up(name).await? {
            Some(id) => id,
            None if self.config.create_streams => self.create(name).await?,
            None => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "the stream does not exist; make it with `SqlQueue::create_stream`, or set \
                     `create_streams`",
                )
                .driver(DRIVER)
                .with("stream", name));
            }
        };
        self.known().insert(name.clone(), id);
        Ok(id)
    }

    /// Makes a stream unless it is there, and returns its id.
    pub(crate) async fn create(&self, name: &StreamName) -> Result<i64> {
        self.check().await?;
        let table = &self.names.streams;
        let insert = match DB::DIALECT {
            Dialect::MySql => format!("INSERT IGNORE INTO {table} (name) VALUES (?)"),
            _ => format!("INSERT INTO {table} (name) VALUES (?) ON CONFLICT (name) DO NOTHING"),
        };
        let values = [Value::Text(name.as_str())];
        self.execute(&insert, &values, "create_stream").await?;
        match self.look_up(name).await? {
            Some(id) => Ok(id),
            None => Err(gone(name)),
        }
    }

    pub(crate) async fn look_up(&self, name: &StreamName) -> Result<Option<i64>> {
        let failed = |e| error(e, "subscribe").with("stream", name);
        let table = &self.names.streams;
        let select = Self::sql(&format!("SELECT id, retention FROM {table} WHERE name = ?"));
        let mut connection = self.connection("subscribe").await?;
        let rows = DB::fetch(&mut connection, &select, &[Value::Text(name.as_str())]).await;
        let rows = rows.map_err(failed)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let id = DB::int(row, 0).map_err(failed)?;
        let retention = self.config.retention.map(millis);
        if retention.is_some() && retention != DB::maybe_int(row, 1).map_err(failed)? {
            drop(connection);
            let update = format!("UPDATE {table} SET retention = ? WHERE id = ?");
            let values = [Value::MaybeInt(retention), Value::Int(id)];
            self.execute(&update, &values, "subscribe").await?;
        }
        Ok(Some(id))
    }

    /// Who gets what is written to these streams, and the time. The transaction holds their locks.
    ///
    /// A stream that is not there is not in the answer.
    pub(crate) async fn holders(
        &self,
        connection: &mut DB::Connection,
        streams: &[i64],
    ) -> sqlx::Result<(Holders, i64)> {
        let list = List::new(streams.iter().copied());
        let (streams, groups) = (&self.names.streams, &self.names.groups);
        // A read that locks sees what is committed now, whatever the transaction saw first.
        let lock = match DB::DIALECT {
            Dialect::MySql => " LOCK IN SHARE MODE",
            Dialect::Postgres | Dialect::Sqlite => "",
        };
        let select = Self::sql(&format!(
            "SELECT s.id, s.retention, g.id, {} FROM {streams} s \
             LEFT JOIN {groups} g ON g.stream_id = s.id WHERE s.id IN ({}) ORDER BY g.id{lock}",
            Self::now(),
            list.marks()
        ));
        let values: Vec<_> = list.values().collect();
        let (mut holders, mut now) = (Holders::new(), 0);
        for row in DB::fetch(connection, &select, &values).await? {
            now = DB::int(&row, 3)?;
            let stream = DB::int(&row, 0)?;
            let group = DB::maybe_int(&row, 2)?;
            let kept = DB::maybe_int(&row, 1)?.is_some() || group.is_none();
            let of_stream = holders.entry(stream).or_insert_with(|| {
                let itself = if kept { Some(-stream) } else { None };
                itself.into_iter().collect()
            });
            of_stream.extend(group);
        }
        Ok((holders, now))
    }

    /// The id of a group, which is made if it is not there, and begins as `start` says.
    pub(crate) async fn group(&self, stream: i64, name: &str, start: &StartFrom) -> Result<i64> {
        let mut connection = self.connection("subscribe").await?;
        let there = self.find_group(&mut connection, stream, name).await;
        drop(connection);
        if let Some(id) = there.map_err(|e| error(e, "subscribe"))? {
            return Ok(id);
        }
        let mut tries = Tries::default();
        loop {
            match self.make_group(stream, name, start).await {
                Err(failed) if tries.again(&failed).await => {}
                done => return done,
            }
        }
    }

    async fn find_group(
        &self,
        connection: &mut DB::Connection,
        stream: i64,
        name: &str,
    ) -> sqlx::Result<Option<i64>> {
        let table = &self.names.groups;
        let select = format!("SELECT id FROM {table} WHERE stream_id = ? AND name = ?");
        let values = [Value::Int(stream), Value::Text(name)];
        let rows = DB::fetch(connection, &Self::sql(&select), &values).await?;
        rows.first().map(|row| DB::int(row, 0)).transpose()
    }

    async fn make_group(&self, stream: i64, name: &str, start: &StartFrom) -> Result<i64> {
        let failed = |e| error(e, "subscribe").with("group", name);
        let mut tx = self
            .begin_locked(&[stream], Lock::Alone, "subscribe")
            .await?;
        if let Some(id) = self
            .find_group(&mut tx, stream, name)
            .await
            .map_err(failed)?
        {
            return Ok(id);
        }
        let (streams, groups) = (&self.names.streams, &self.names.groups);
        let insert = format!(
            "INSERT INTO {groups} (stream_id, name) SELECT id, ? FROM {streams} WHERE id = ?"
        );
        let values = [Value::Text(name), Value::Int(stream)];
        let made = DB::execute(&mut tx, &Self::sql(&insert), &values).await;
        if made.map_err(failed)? == 0 {
            self.known().retain(|_, id| *id != stream);
            return Err(Error::new(
                ErrorKind::NotFound,
                "the stream was deleted; subscribe again to make a new one",
            )
            .operation("subscribe")
            .driver(DRIVER));
        }
        let group = self.find_group(&mut tx, stream, name).await;
        let Some(group) = group.map_err(failed)? else {
            return Err(
                Error::new(ErrorKind::Other, "the group is not there after it was made")
                    .operation("subscribe")
                    .driver(DRIVER)
                    .with("group", name),
            );
        };
        self.give_kept(&mut tx, stream, group, start).await?;
        tx.commit().await.map_err(failed)?;
        Ok(group)
    }

    /// Gives a new group what is kept of its stream.
    async fn give_kept(
        &self,
        connection: &mut DB::Connection,
        stream: i64,
        group: i64,
        start: &StartFrom,
    ) -> Result<()> {
        let failed = |e| error(e, "subscribe");
        let Some(from) = self.first_of(connection, stream, start).await? else {
            return Ok(());
        };
        let (streams, messages) = (&self.names.streams, &self.names.messages);
        let select = format!("SELECT retention FROM {streams} WHERE id = ?");
        let rows = DB::fetch(connection, &Self::sql(&select), &[Value::Int(stream)]).await;
        let rows = rows.map_err(failed)?;
        let retention = rows.first().map(|row| DB::maybe_int(row, 0));
        let keeps = retention.transpose().map_err(failed)?.flatten().is_some();
        let columns = super::rows::COLUMNS;
        let give = if keeps {
            format!(
                "INSERT INTO {messages} (group_id, ready_at, {columns}) \
                 SELECT {}, ready_at, {columns} FROM {messages} \
                 WHERE group_id = ? AND id >= ? ORDER BY id",
                Self::number()
            )
        } else {
            // They waited for a first group, and this is the one.
            format!("UPDATE {messages} SET group_id = ? WHERE group_id = ? AND id >= ?")
        };
        let values = [Value::Int(group), Value::Int(-stream), Value::Int(from)];
        let given = DB::execute(connection, &Self::sql(&give), &values).await;
        given.map(drop).map_err(failed)
    }

    /// The row of the first message to start with; `None` for those to come.
    async fn first_of(
        &self,
        connection: &mut DB::Connection,
        stream: i64,
        start: &StartFrom,
    ) -> Result<Option<i64>> {
        let messages = &self.names.messages;
        let itself = Value::Int(-stream);
        let (select, value) = match start {
            StartFrom::Default | StartFrom::Earliest => return Ok(Some(0)),
            StartFrom::Latest => return Ok(None),
            StartFrom::Position(id) => {
                let only = "AND message_id = ?";
                (only, Value::Text(id))
            }
            StartFrom::Time(time) => ("AND time >= ?", Value::Int(unix_millis(*time))),
            _ => {
                return Err(Error::unsupported(
                    DRIVER,
                    "the queue cannot start there; start from the earliest, or at a time",
                ));
            }
        };
        let select = format!("SELECT MIN(id) FROM {messages} WHERE group_id = ? {select}");
        let rows = DB::fetch(connection, &Self::sql(&select), &[itself, value]).await;
        let first = rows.and_then(|rows| match rows.first() {
            Some(row) => DB::maybe_int(row, 0),
            None => Ok(None),
        });
        match (first.map_err(|e| error(e, "subscribe"))?, start) {
            (None, StartFrom::Position(id)) => Err(Error::new(
                ErrorKind::NotFound,
                "no message of that id is kept; start from the earliest, or at a time",
            )
            .operation("subscribe")
            .driver(DRIVER)
            .with("position", id)),
            (first, _) => Ok(first),
        }
    }

    /// Deletes a group and what waits for it; `false` if there is none.
    pub(crate) async fn delete_group(&self, stream: &StreamName, name: &str) -> Result<bool> {
        self.check().await?;
        let Some(stream) = self.look_up(stream).await? else {
            return Ok(false);
        };
        let failed = |e| error(e, "delete_group").with("group", name);
        let mut tx = self
            .begin_locked(&[stream], Lock::Alone, "delete_group")
            .await?;
        let found = self.find_group(&mut tx, stream, name).await;
        let Some(group) = found.map_err(failed)? else {
            return Ok(false);
        };
        let delete = format!("DELETE FROM {} WHERE id = ?", self.names.groups);
        DB::execute(&mut tx, &Self::sql(&delete), &[Value::Int(group)])
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.delete_messages(group).await?;
        self.wake.wake(stream);
        Ok(true)
    }

    /// Deletes a stream with its groups and messages; `false` if there is none.
    pub(crate) async fn delete_stream(&self, name: &StreamName) -> Result<bool> {
        self.check().await?;
        let Some(stream) = self.look_up(name).await? else {
            return Ok(false);
        };
        let failed = |e| error(e, "delete_stream").with("stream", name);
        let mut tx = self
            .begin_locked(&[stream], Lock::Alone, "delete_stream")
            .await?;
        let Names {
            streams,
            groups,
            scheduled,
            ..
        } = &self.names;
        let select = Self::sql(&format!("SELECT id FROM {groups} WHERE stream_id = ?"));
        let rows = DB::fetch(&mut tx, &select, &[Value::Int(stream)]).await;
        let ids = rows.and_then(|rows| rows.iter().map(|row| DB::int(row, 0)).collect());
        let holders: Vec<i64> = ids.map_err(failed)?;
        for (table, column) in [
            (groups, "stream_id"),
            (scheduled, "stream_id"),
            (streams, "id"),
        ] {
            let delete = Self::sql(&format!("DELETE FROM {table} WHERE {column} = ?"));
            DB::execute(&mut tx, &delete, &[Value::Int(stream)])
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        self.known().retain(|_, id| *id != stream);
        for holder in holders.into_iter().chain([-stream]) {
            self.delete_messages(holder).await?;
        }
        self.wake.wake(stream);
        Ok(true)
    }

    /// Deletes what is held for a group that is no more, a chunk at a time.
    async fn delete_messages(&self, holder: i64) -> Result<()> {
        while self.delete_chunk(holder, i64::MAX).await? == CHUNK {}
        Ok(())
    }

    /// Deletes what is kept of a stream for longer than it has to be, if the stream has a group: until
    /// then it is what the first group gets.
    pub(crate) async fn forget_old(&self, stream: i64) -> Result<()> {
        let failed = |e| error(e, "clean_up");
        let (streams, groups) = (&self.names.streams, &self.names.groups);
        let select = Self::sql(&format!(
            "SELECT {} - retention FROM {streams} WHERE id = ? AND retention IS NOT NULL \
             AND EXISTS (SELECT 1 FROM {groups} WHERE stream_id = ?)",
            Self::now()
        ));
        let values = [Value::Int(stream), Value::Int(stream)];
        let mut connection = self.connection("clean_up").await?;
        let rows = DB::fetch(&mut connection, &select, &values).await;
        drop(connection);
        let before = rows.and_then(|rows| rows.first().map(|row| DB::int(row, 0)).transpose());
        if let Some(before) = before.map_err(failed)? {
            while self.delete_chunk(-stream, before).await? == CHUNK {}
        }
        Ok(())
    }

    async fn delete_chunk(&self, holder: i64, before: i64) -> Result<u64> {
        let messages = &self.names.messages;
        let first =
            format!("WHERE group_id = ? AND ready_at < ? ORDER BY ready_at, id LIMIT {CHUNK}");
        let delete = match DB::DIALECT {
            Dialect::MySql => format!("DELETE FROM {messages} {first}"),
            Dialect::Postgres | Dialect::Sqlite => {
                format!("DELETE FROM {messages} WHERE id IN (SELECT id FROM {messages} {first})")
            }
        };
        let values = [Value::Int(holder), Value::Int(before)];
        self.execute(&delete, &values, "clean_up").await
    }
}

fn gone(name: &StreamName) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the stream was deleted meanwhile; write or subscribe again to make a new one",
    )
    .driver(DRIVER)
    .with("stream", name)
}
