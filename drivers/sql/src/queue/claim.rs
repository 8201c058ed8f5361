//! Taking messages: which of a group's are ready, and which must wait for others of their key.
//!
//! A reader takes the first that are ready, under locks that others pass over. One with a key is taken
//! if all before it of that key are taken by the same reader, and no other has any of that key;
//! otherwise it is set aside, *behind* those: out of the way, until one of them is done. So taking
//! looks at no more rows than it takes, however many wait. Who takes a key takes those behind it too, as
//! far as there is room. Readers of a group take turns at this.
//!
//! Nothing that is behind is forgotten: it is set aside only under the lock of a row that it waits for,
//! and whoever is done with that row looks afterwards for those behind it. Should somebody have deleted
//! the row by hand, they are looked at again all the same after [`LOOK_AGAIN`].

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use streams_core::{Message, Result, StreamName};
use tokio::time::Instant;

use super::rows::{COLUMNS, message};
use super::store::{FAR, List, Store, Tries, marks, millis};
use crate::database::{Database, Dialect, Value};
use crate::error::error;

/// When what is set aside is looked at again, in milliseconds.
const LOOK_AGAIN: i64 = 300_000;
/// Rounds in which all that was ready had to be set aside, before others get their turn.
const ROUNDS: usize = 16;
/// Rounds of them in which some could not even be set aside: others are at work on their keys.
const VAIN: usize = 3;
/// How many are looked at in a round after one in which all had to be set aside.
const MANY: usize = 256;

/// A reader of a group.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) stream: i64,
    pub(crate) name: StreamName,
    pub(crate) group: i64,
    /// Stands in rows that are its own; no other reader has the same.
    pub(crate) owner: i64,
    pub(crate) lease: Duration,
    pub(crate) clock: Clock,
}

/// The database's clock, as it was last read.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<(Instant, i64)>>);

impl Clock {
    /// For how long it need not be read again.
    const GOOD_FOR: Duration = Duration::from_millis(100);

    /// The time, a little late if anything; `None` if the clock is to be read again.
    fn now(&self) -> Option<i64> {
        let (read, time) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = read.elapsed();
        (since < Self::GOOD_FOR).then(|| time + millis(since))
    }

    fn set(&self, time: i64) {
        let read = Some((Instant::now(), time));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = read;
    }
}

/// A message taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) id: i64,
    pub(crate) attempt: u32,
    pub(crate) key: Option<i64>,
    pub(crate) lease: Instant,
    pub(crate) message: Message,
}

/// What a look at the tables found.
#[derive(Debug)]
pub(crate) enum Look {
    /// These are the reader's now.
    Taken(Vec<Taken>),
    /// Nothing is ready, and the next is in so long.
    Nothing(Duration),
    /// What is ready is in others' hands.
    Busy,
    /// There is no such group any more.
    Gone,
}

/// What there is, by the database's clock.
struct There {
    now: i64,
    ready_at: Option<i64>,
    deliver_at: Option<i64>,
    group: bool,
}

impl<DB: Database> Store<DB> {
    /// Takes what is ready, at most `max`.
    pub(crate) async fn look(&self, reading: &Reading, max: usize) -> Result<Look> {
        // While there is plenty, it is only now and again that anything else is looked at.
        if let Some(now) = reading.clock.now()
            && let Some(taken) = self.take_some(reading, now, max).await?
        {
            return Ok(Look::Taken(taken));
        }
        let mut there = self.there(reading).await?;
        if !there.group {
            return Ok(Look::Gone);
        }
        if there.deliver_at.is_some_and(|at| at <= there.now) {
            let mut tries = Tries::default();
            loop {
                let done = self.hand_out_due(reading.stream, &reading.name, there.now);
                match done.await {
                    Err(failed) if tries.again(&failed).await => {}
                    done => break done?,
                }
            }
            there = self.there(reading).await?;
        }
        let next = there.ready_at.unwrap_or(FAR);
        if next > there.now {
            let next = next.min(there.deliver_at.unwrap_or(FAR)) - there.now;
            let next = Duration::from_millis(next.max(0).cast_unsigned());
            return Ok(Look::Nothing(next));
        }
        reading.clock.set(there.now);
        let taken = self.take_some(reading, there.now, max).await?;
        Ok(taken.map_or(Look::Busy, Look::Taken))
    }

    /// Takes some of what is ready; `None` if there is nothing, or others have it.
    async fn take_some(
        &self,
        reading: &Reading,
        now: i64,
        max: usize,
    ) -> Result<Option<Vec<Taken>>> {
        let mut tries = Tries::default();
        let (mut rounds, mut vain) = (0, 0);
        let mut left = Vec::new();
        while rounds < ROUNDS && vain < VAIN {
            let of = if rounds == 0 { max } else { max.max(MANY) };
            let before = left.len();
            match self.take(reading, now, max, of, &mut left).await {
                Ok(Some(taken)) if taken.is_empty() => {
                    rounds += 1;
                    vain += usize::from(left.len() > before);
                }
                Ok(taken) => return Ok(taken),
                Err(failed) if tries.again(&failed).await => {}
                Err(failed) => return Err(failed),
            }
        }
        Ok(None)
    }

    async fn there(&self, reading: &Reading) -> Result<There> {
        let (groups, messages) = (&self.names.groups, &self.names.messages);
        let scheduled = &self.names.scheduled;
        let select = Self::sql(&format!(
            "SELECT {}, (SELECT MIN(ready_at) FROM {messages} WHERE group_id = ?), \
             (SELECT MIN(deliver_at) FROM {scheduled} WHERE stream_id = ?), \
             (SELECT id FROM {groups} WHERE id = ?)",
            Self::now()
        ));
        let values = [reading.group, reading.stream, reading.group].map(Value::Int);
        let mut connection = self.connection("receive").await?;
        let rows = DB::fetch(&mut connection, &select, &values).await;
        let there = rows.and_then(|rows| {
            let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            Ok(There {
                now: DB::int(row, 0)?,
                ready_at: DB::maybe_int(row, 1)?,
                deliver_at: DB::maybe_int(row, 2)?,
                group: DB::maybe_int(row, 3)?.is_some(),
            })
        });
        there.map_err(|e| error(e, "receive").with("stream", &reading.name))
    }

    /// Takes what it can, at most `max`, of the first so many that are ready, except those that were
    /// `left` before; `None` if there are none.
    async fn take(
        &self,
        reading: &Reading,
        now: i64,
        max: usize,
        of: usize,
        left: &mut Vec<i64>,
    ) -> Result<Option<Vec<Taken>>> {
        let failed = |e| error(e, "receive").with("stream", &reading.name);
        let lease = Instant::now() + reading.lease;
        let mut tx = self.begin_taking(reading.group, "receive").await?;
        let mut ready = self
            .ready(&mut tx, reading, now, of, left)
            .await
            .map_err(failed)?;
        if ready.is_empty() {
            return Ok(None);
        }
        let room = of.saturating_sub(ready.len());
        let behind = self.behind_these(&mut tx, reading, &ready, room).await;
        ready.extend(behind.map_err(failed)?);
        for taken in &mut ready {
            taken.lease = lease;
        }
        let waits = self
            .waiting(&mut tx, reading, now, &ready)
            .await
            .map_err(failed)?;
        let taken = ready.into_iter();
        let mut taken: Vec<_> = taken.filter(|one| !waits.left.contains(&one.id)).collect();
        // One of a key that came back is ready later than those after it.
        taken.sort_unstable_by_key(|one| one.id);
        taken.truncate(max);
        let messages = self.by_id();
        if !taken.is_empty() {
            let list = List::new(taken.iter().map(|one| one.id));
            let update = Self::sql(&format!(
                "UPDATE {messages} SET owner = ?, attempts = attempts + 1, behind = NULL, \
                 ready_at = {} + ? WHERE id IN ({})",
                Self::now(),
                list.marks()
            ));
            let mut values = vec![Value::Int(reading.owner), Value::Int(millis(reading.lease))];
            values.extend(list.values());
            DB::execute(&mut tx, &update, &values)
                .await
                .map_err(failed)?;
        }
        if !waits.behind.is_empty() {
            let list = List::new(waits.behind.iter().copied());
            let update = Self::sql(&format!(
                "UPDATE {messages} SET owner = NULL, behind = key_hash, ready_at = ? \
                 WHERE id IN ({})",
                list.marks()
            ));
            let mut values = vec![Value::Int(now + LOOK_AGAIN)];
            values.extend(list.values());
            DB::execute(&mut tx, &update, &values)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        left.extend(waits.left.iter().filter(|id| !waits.behind.contains(id)));
        Ok(Some(taken))
    }

    /// The first that are ready and nobody else is about to take, locked.
    async fn ready(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        now: i64,
        max: usize,
        left: &[i64],
    ) -> sqlx::Result<Vec<Taken>> {
        let messages = &self.names.messages;
        let left = (!left.is_empty()).then(|| List::new(left.iter().copied()));
        let others = left.as_ref().map_or_else(String::new, |left| {
            format!("AND id NOT IN ({}) ", left.marks())
        });
        let lock = match DB::DIALECT {
            // What `lock` locks is not in its way.
            Dialect::Postgres => " FOR NO KEY UPDATE SKIP LOCKED",
            Dialect::MySql | Dialect::Sqlite => DB::DIALECT.skip_locked(),
        };
        let select = Self::sql(&format!(
            "SELECT id, attempts, {COLUMNS} FROM {messages} \
             WHERE group_id = ? AND ready_at <= ? {others}ORDER BY ready_at, id LIMIT ?{lock}"
        ));
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let mut values = vec![Value::Int(reading.group), Value::Int(now)];
        values.extend(left.iter().flat_map(List::values));
        values.push(Value::Int(max));
        Self::read(&DB::fetch(connection, &select, &values).await?, reading)
    }

    /// The first that are behind others of the keys of these: they may be taken together.
    async fn behind_these(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        ready: &[Taken],
        room: usize,
    ) -> sqlx::Result<Vec<Taken>> {
        let keys: HashSet<_> = ready.iter().filter_map(|one| one.key).collect();
        if room == 0 || keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = self.behind(connection, reading, keys).await?;
        ids.truncate(room);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (table, list) = (self.by_id(), List::new(ids));
        let marks = list.marks();
        let select = format!("SELECT id, attempts, {COLUMNS} FROM {table} WHERE id IN ({marks})");
        let values: Vec<_> = list.values().collect();
        let rows = DB::fetch(connection, &Self::sql(&select), &values).await?;
        Self::read(&rows, reading)
    }

    fn read(rows: &[DB::Row], reading: &Reading) -> sqlx::Result<Vec<Taken>> {
        let taken = rows.iter().map(|row| {
            let earlier = DB::int(row, 1)?;
            Ok(Taken {
                id: DB::int(row, 0)?,
                attempt: u32::try_from(earlier + 1).unwrap_or(u32::MAX),
                key: DB::maybe_int(row, 2)?,
                lease: Instant::now(),
                message: message::<DB>(row, 3, 5, &reading.name)?,
            })
        });
        taken.collect()
    }

    /// Which of these must wait for others of their keys.
    async fn waiting(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        now: i64,
        ready: &[Taken],
    ) -> sqlx::Result<Waiting> {
        let mut waiting = Waiting::default();
        let keys: HashSet<_> = ready.iter().filter_map(|one| one.key).collect();
        if keys.is_empty() {
            return Ok(waiting);
        }
        let first = self
            .first_of_others(connection, reading, now, ready, keys)
            .await?;
        if first.is_empty() {
            return Ok(waiting);
        }
        let states = self
            .states(connection, first.values().copied(), now)
            .await?;
        let mut behind: HashMap<i64, Vec<i64>> = HashMap::new();
        for one in ready {
            let Some(first) = one.key.and_then(|key| first.get(&key)) else {
                continue;
            };
            let before = *first < one.id;
            match states.get(first) {
                Some(State::Free) if !before => continue,
                Some(_) if before => behind.entry(*first).or_default().push(one.id),
                // The other was done with just now, or its reader had this one too and gave it back,
                // as it will the other.
                _ => {}
            }
            waiting.left.insert(one.id);
        }
        if !behind.is_empty() {
            let locked = self.lock(connection, behind.keys().copied()).await?;
            let behind = behind.into_iter().filter(|(of, _)| locked.contains(of));
            waiting.behind = behind.flat_map(|(_, ids)| ids).collect();
        }
        Ok(waiting)
    }

    /// Which of these messages other readers have, as far as they are there.
    async fn states(
        &self,
        connection: &mut DB::Connection,
        ids: impl IntoIterator<Item = i64>,
        now: i64,
    ) -> sqlx::Result<HashMap<i64, State>> {
        let (table, list) = (self.by_id(), List::new(ids));
        let marks = list.marks();
        let select = format!("SELECT id, owner, ready_at FROM {table} WHERE id IN ({marks})");
        let values: Vec<_> = list.values().collect();
        let rows = DB::fetch(connection, &Self::sql(&select), &values).await?;
        let state = |row| {
            let state = match (DB::maybe_int(row, 1)?, DB::int(row, 2)?) {
                (Some(_), until) if until > now => State::Leased,
                _ => State::Free,
            };
            Ok((DB::int(row, 0)?, state))
        };
        rows.iter().map(state).collect()
    }

    /// Locks those of these messages that are there and nobody is about to remove, so that nobody does.
    async fn lock(
        &self,
        connection: &mut DB::Connection,
        ids: impl IntoIterator<Item = i64>,
    ) -> sqlx::Result<HashSet<i64>> {
        let (table, list) = (self.by_id(), List::new(ids));
        let lock = match DB::DIALECT {
            // It is not in the way of readers that take them.
            Dialect::Postgres => " FOR KEY SHARE SKIP LOCKED",
            Dialect::MySql | Dialect::Sqlite => DB::DIALECT.skip_locked(),
        };
        let marks = list.marks();
        let select = format!("SELECT id FROM {table} WHERE id IN ({marks}){lock}");
        let values: Vec<_> = list.values().collect();
        let rows = DB::fetch(connection, &Self::sql(&select), &values).await?;
        rows.iter().map(|row| DB::int(row, 0)).collect()
    }

    /// Of each key, the first message that is neither this reader's nor about to be.
    async fn first_of_others(
        &self,
        connection: &mut DB::Connection,
        reading: &Reading,
        now: i64,
        ready: &[Taken],
        keys: HashSet<i64>,
    ) -> sqlx::Result<HashMap<i64, i64>> {
        let messages = &self.names.messages;
        let keyed = ready.iter().filter(|one| one.key.is_some());
        let (ids, keys) = (List::new(keyed.map(|one| one.id)), List::new(keys));
        let number = Self::number();
        let more = format!(" UNION ALL SELECT {number}").repeat(keys.len() - 1);
        // The inner query walks an index from the first message of a key, past those of this reader.
        let select = Self::sql(&format!(
            "SELECT k.key_hash, (SELECT b.id FROM {messages} b \
             WHERE b.group_id = {number} AND b.key_hash = k.key_hash AND b.id NOT IN ({}) \
             AND (b.owner IS NULL OR b.owner <> {number} OR b.ready_at <= {number}) \
             ORDER BY b.id LIMIT 1) \
             FROM (SELECT {number} AS key_hash{more}) k",
            marks(number, ids.len())
        ));
        let mut values = vec![Value::Int(reading.group)];
        values.extend(ids.values());
        values.extend([Value::Int(reading.owner), Value::Int(now)]);
        values.extend(keys.values());
        let mut first = HashMap::new();
        for row in DB::fetch(connection, &select, &values).await? {
            if let Some(id) = DB::maybe_int(&row, 1)? {
                first.insert(DB::int(&row, 0)?, id);
            }
        }
        Ok(first)
    }
}

/// Whether another reader has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Leased,
}

/// Messages that are ready and are not taken.
#[derive(Default)]
struct Waiting {
    left: HashSet<i64>,
    /// Those of them that are set aside.
    behind: Vec<i64>,
}
