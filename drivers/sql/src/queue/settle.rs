//! What becomes of messages that were taken.

use std::collections::HashSet;

use streams_core::{Error, ErrorKind, Message, Result};

use super::claim::Reading;
use super::store::{List, Lock, Store};
use crate::DRIVER;
use crate::database::{Database, Dialect, Value};
use crate::error::error;

/// Those behind keys that are shown at once, and the most keys at once.
const BEHIND: usize = 512;
const KEYS: usize = 64;
/// Milliseconds over which those of different keys are spread.
const APART: u32 = 50;

/// Messages to be settled, by what becomes of them.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    pub(crate) done: Vec<i64>,
    /// Each with the milliseconds after which it comes again.
    pub(crate) retried: Vec<(i64, i64)>,
    pub(crate) released: Vec<i64>,
    /// The keys of those that are done, of which the reader has no later ones: it shows what is behind
    /// a key when it is done with the last.
    pub(crate) keys: HashSet<i64>,
}

impl Settling {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids().next().is_none()
    }

    fn ids(&self) -> impl Iterator<Item = i64> {
        let retried = self.retried.iter().map(|(id, _)| id);
        self.done
            .iter()
            .chain(retried)
            .chain(&self.released)
            .copied()
    }
}

/// The error when it is not known what became of a transaction that settles and writes. It is of a kind
/// after which nothing more is settled on the subscription.
pub(crate) fn unknown(source: Error) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "it is not known whether the transaction was committed; if not, its messages come again",
    )
    .operation("settle_in_transaction")
    .driver(DRIVER)
    .with("committed", "unknown")
    .source(source)
}

pub(crate) fn is_unknown(error: &Error) -> bool {
    error.context().any(|(name, _)| name == "committed")
}

/// A message that is written with the settlement of the one it came of.
pub(crate) type Output<'a> = (i64, i64, &'a Message);

impl<DB: Database> Store<DB> {
    /// Settles what is still the reader's, and returns what that is. `outputs` are written in the same
    /// transaction, each with the id of the message it came of and of its stream; those of messages
    /// that are not the reader's any more are not.
    pub(crate) async fn settle(
        &self,
        reading: &Reading,
        settling: &Settling,
        outputs: &[Output<'_>],
    ) -> Result<HashSet<i64>> {
        const DOING: &str = "settle";
        let failed = |e| error(e, DOING).with("stream", &reading.name);
        let streams: HashSet<_> = outputs.iter().map(|(_, stream, _)| *stream).collect();
        let streams: Vec<_> = streams.into_iter().collect();
        let mut tx = if streams.is_empty() {
            self.begin(DOING).await?
        } else {
            self.begin_locked(&streams, Lock::Shared, DOING).await?
        };
        let mut own = HashSet::new();
        let mut shown = false;
        if !settling.done.is_empty() {
            let done = self.remove(&mut tx, reading, settling).await;
            own.extend(done.map_err(failed)?);
            if !settling.keys.is_empty() {
                let show = self.show_behind(&mut tx, reading, &settling.keys);
                shown = show.await.map_err(failed)?;
            }
        }
        let freed = self.put_back(&mut tx, reading, settling).await;
        let freed = freed.map_err(failed)?;
        shown |= !freed.is_empty();
        own.extend(freed);
        let written: Vec<_> = outputs
            .iter()
            .filter(|(of, ..)| own.contains(of))
            .map(|(_, stream, message)| (*stream, *message))
            .collect();
        if !written.is_empty() {
            self.write_outputs(&mut tx, &streams, &written).await?;
        }
        tx.commit().await.map_err(|e| {
            let failure = failed(e);
            // Where it is told apart, nothing was committed.
            if outputs.is_empty() || failure.kind() == ErrorKind::Conflict {
                return failure;
            }
            unknown(failure)
        })?;
        if shown {
            self.wake.wake(reading.stream);
        }
        if !written.is_empty() {
            streams.iter().for_each(|stream| self.wake.wake(*stream));
        }
        Ok(own)
    }

    async fn remove(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        settling: &Settling,
    ) -> sqlx::Result<HashSet<i64>> {
        let delete = match DB::DIALECT {
            Dialect::MySql => format!(
                "DELETE m FROM {} m FORCE INDEX (PRIMARY)",
                self.names.messages
            ),
            Dialect::Postgres | Dialect::Sqlite => format!("DELETE FROM {}", self.names.messages),
        };
        let ids = List::new(settling.done.iter().copied());
        self.change(connection, reading, &delete, Vec::new(), &ids)
            .await
    }

    /// Gives back what is to come again.
    async fn put_back(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        settling: &Settling,
    ) -> sqlx::Result<HashSet<i64>> {
        let (table, now) = (self.by_id(), Self::now());
        let mut own = HashSet::new();
        if !settling.released.is_empty() {
            let ids = List::new(settling.released.iter().copied());
            let update = format!(
                "UPDATE {table} SET owner = NULL, attempts = attempts - 1, ready_at = {now}"
            );
            let released = self.change(connection, reading, &update, Vec::new(), &ids);
            own.extend(released.await?);
        }
        if !settling.retried.is_empty() {
            let ids = List::new(settling.retried.iter().map(|(id, _)| *id));
            let after = List::new(settling.retried.iter().map(|(_, after)| *after));
            let number = Self::number();
            let cases = format!("WHEN {number} THEN {number} ").repeat(ids.len());
            let update =
                format!("UPDATE {table} SET owner = NULL, ready_at = {now} + CASE id {cases}END");
            let cases = ids.values().zip(after.values());
            let cases = cases.flat_map(|(id, after)| [id, after]).collect();
            let retried = self.change(connection, reading, &update, cases, &ids);
            own.extend(retried.await?);
        }
        Ok(own)
    }

    /// Runs a statement on those of the rows that are still the reader's; returns their ids.
    async fn change(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        statement: &str,
        mut values: Vec<Value<'_>>,
        ids: &List,
    ) -> sqlx::Result<HashSet<i64>> {
        let rows = format!("WHERE id IN ({}) AND owner = ?", ids.marks());
        let owner = Value::Int(reading.owner);
        let of_rows: Vec<_> = ids.values().chain([owner]).collect();
        match DB::DIALECT {
            Dialect::Postgres | Dialect::Sqlite => {
                values.extend(of_rows);
                let statement = Self::sql(&format!("{statement} {rows} RETURNING id"));
                let changed = DB::fetch(connection, &statement, &values).await?;
                changed.iter().map(|row| DB::int(row, 0)).collect()
            }
            // It does not say which rows it changes.
            Dialect::MySql => {
                let table = self.by_id();
                let own = Self::sql(&format!("SELECT id FROM {table} {rows} FOR UPDATE"));
                let own = DB::fetch(connection, &own, &of_rows).await?;
                values.extend(of_rows);
                let statement = Self::sql(&format!("{statement} {rows}"));
                DB::execute(connection, &statement, &values).await?;
                own.iter().map(|row| DB::int(row, 0)).collect()
            }
        }
    }

    /// Shows readers the first messages that were behind others of these keys; says whether there
    /// were any. It runs after those others were removed, in a statement of its own, so that it sees
    /// what was set aside until then.
    async fn show_behind(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        keys: &HashSet<i64>,
    ) -> sqlx::Result<bool> {
        let keys = keys.iter().copied();
        let found = self.behind(connection, reading, keys).await?;
        if found.is_empty() {
            return Ok(false);
        }
        let list = List::new(found);
        let (table, now) = (self.by_id(), Self::now());
        // Those of a key become ready together, apart from those of other keys: one reader takes them
        // all. If two took some of each, the second would have to set all of its own aside again.
        let update = Self::sql(&format!(
            "UPDATE {table} SET ready_at = {now} - ABS(behind % {APART}), behind = NULL \
             WHERE id IN ({}) AND behind IS NOT NULL",
            list.marks()
        ));
        let values: Vec<_> = list.values().collect();
        DB::execute(connection, &update, &values).await?;
        Ok(true)
    }

    /// The first that are behind each of these keys: fewer of each, the more keys there are.
    pub(crate) async fn behind(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        keys: impl IntoIterator<Item = i64>,
    ) -> sqlx::Result<Vec<i64>> {
        let (keys, table) = (Vec::from_iter(keys), &self.names.messages);
        let mut behind = Vec::new();
        for keys in keys.chunks(KEYS) {
            let list = List::new(keys.iter().copied());
            let of_each = BEHIND / list.len();
            let first = format!(
                "SELECT id FROM (SELECT id FROM {table} WHERE group_id = ? AND behind = ? \
                 ORDER BY id LIMIT {of_each}) b"
            );
            let more = format!(" UNION ALL {first}").repeat(list.len() - 1);
            let select = Self::sql(&format!("{first}{more}"));
            let group = Value::Int(reading.group);
            let values: Vec<_> = list.values().flat_map(|key| [group, key]).collect();
            for row in DB::fetch(connection, &select, &values).await? {
                behind.push(DB::int(&row, 0)?);
            }
        }
        Ok(behind)
    }

    /// Makes leases last until so many milliseconds from now; returns which are still the reader's.
    pub(crate) async fn extend(
        &self,
        reading: &Reading,
        ids: &[i64],
        by: i64,
    ) -> Result<HashSet<i64>> {
        let failed = |e| error(e, "extend").with("stream", &reading.name);
        let list = List::new(ids.iter().copied());
        let (table, now) = (self.by_id(), Self::now());
        let update = format!(
            "UPDATE {table} SET ready_at = {now} + ? WHERE id IN ({}) AND owner = ?",
            list.marks()
        );
        let mut values = vec![Value::Int(by)];
        values.extend(list.values());
        values.push(Value::Int(reading.owner));
        if self.execute(&update, &values, "extend").await? == ids.len() as u64 {
            return Ok(ids.iter().copied().collect());
        }
        let mut connection = self.connection("extend").await?;
        // MySQL does not count rows that have the same time already, so the number may be too low.
        let (table, list) = (&self.names.messages, List::new(ids.iter().copied()));
        let select = Self::sql(&format!(
            "SELECT id FROM {table} WHERE id IN ({}) AND owner = ?",
            list.marks(),
        ));
        let mut values: Vec<_> = list.values().collect();
        values.push(Value::Int(reading.owner));
        let rows = DB::fetch(&mut connection, &select, &values).await;
        let own = rows.and_then(|rows| rows.iter().map(|row| DB::int(row, 0)).collect());
        own.map_err(failed)
    }
}
