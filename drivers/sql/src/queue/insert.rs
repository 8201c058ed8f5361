//! Rows put into the tables.

use streams_core::{Message, Result, StreamName};

use super::rows::{COLUMNS, Row};
use super::store::{List, Lock, Store, marks};
use super::streams::Holders;
use crate::database::{Database, Value};
use crate::error::error;

/// Most rows of one statement, and about how many bytes: below what MySQL takes.
const ROWS: usize = 64;
const BYTES: usize = 4 << 20;
/// Scheduled messages that are taken up in one transaction.
const DUE: usize = 100;

impl<DB: Database> Store<DB> {
    /// Puts messages, each with the id of its stream, into the hands of all who hold the streams.
    pub(crate) async fn insert(
        &self,
        connection: &mut DB::Connection,
        messages: &[(i64, &Message)],
        holders: &Holders,
    ) -> sqlx::Result<()> {
        let rows: Vec<_> = messages.iter().map(|(_, m)| Row::of(m)).collect();
        let held = messages.iter().zip(&rows).flat_map(|((stream, _), row)| {
            let holders = holders.get(stream).into_iter().flatten();
            holders.map(move |holder| (*holder, row))
        });
        let held: Vec<_> = held.collect();
        let table = &self.names.messages;
        let mark = format!("(?,{},?,?,?,?)", Self::now());
        for rows in chunks(&held, |(_, row)| row.raw_data.len()) {
            let insert = Self::sql(&format!(
                "INSERT INTO {table} (group_id, ready_at, {COLUMNS}) VALUES {}",
                marks(&mark, rows.len())
            ));
            let mut values = Vec::with_capacity(rows.len() * 5);
            for (holder, row) in rows {
                values.push(Value::Int(*holder));
                values.extend(row.values());
            }
            DB::execute(connection, &insert, &values).await?;
        }
        Ok(())
    }

    /// Keeps messages, each with the id of its stream, until `deliver_at`.
    pub(crate) async fn insert_scheduled(
        &self,
        connection: &mut DB::Connection,
        messages: &[(i64, &Message)],
        deliver_at: i64,
    ) -> sqlx::Result<()> {
        let rows: Vec<_> = messages.iter().map(|(s, m)| (*s, Row::of(m))).collect();
        let table = &self.names.scheduled;
        for rows in chunks(&rows, |(_, row)| row.raw_data.len()) {
            let insert = Self::sql(&format!(
                "INSERT INTO {table} (stream_id, deliver_at, message_id, raw_data) VALUES {}",
                marks("(?,?,?,?)", rows.len())
            ));
            let mut values = Vec::with_capacity(rows.len() * 4);
            for (stream, row) in rows {
                values.push(Value::Int(*stream));
                values.push(Value::Int(deliver_at));
                values.push(Value::Text(&row.message_id));
                values.push(Value::Bytes(&row.raw_data));
            }
            DB::execute(connection, &insert, &values).await?;
        }
        Ok(())
    }

    /// Hands scheduled messages that are due to the groups of their stream, in the order of their
    /// times. One at a time does so: others find nothing left.
    pub(crate) async fn hand_out_due(&self, id: i64, stream: &StreamName, now: i64) -> Result<()> {
        let failed = |e| error(e, "receive").with("stream", stream);
        let mut tx = self.begin_locked(&[id], Lock::Shared, "receive").await?;
        let table = &self.names.scheduled;
        let select = Self::sql(&format!(
            "SELECT id, message_id, raw_data FROM {table} \
             WHERE stream_id = ? AND deliver_at <= ? ORDER BY deliver_at, id LIMIT {DUE}{}",
            Self::for_update()
        ));
        let rows = DB::fetch(&mut tx, &select, &[Value::Int(id), Value::Int(now)]).await;
        let rows = rows.map_err(failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        let ids: sqlx::Result<Vec<_>> = rows.iter().map(|row| DB::int(row, 0)).collect();
        let messages: sqlx::Result<Vec<_>> = rows
            .iter()
            .map(|row| super::rows::message::<DB>(row, 1, 2, stream))
            .collect();
        let (ids, messages) = (ids.map_err(failed)?, messages.map_err(failed)?);
        let (holders, _) = self.holders(&mut tx, &[id]).await.map_err(failed)?;
        let of_stream: Vec<_> = messages.iter().map(|message| (id, message)).collect();
        self.insert(&mut tx, &of_stream, &holders)
            .await
            .map_err(failed)?;
        let list = List::new(ids);
        let delete = format!("DELETE FROM {table} WHERE id IN ({})", list.marks());
        let values: Vec<_> = list.values().collect();
        DB::execute(&mut tx, &Self::sql(&delete), &values)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        self.wake.wake(id);
        Ok(())
    }
}

/// Splits rows for statements: by bytes, and into powers of two, so that there are few statements to
/// prepare.
fn chunks<T>(rows: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut total = 0;
        let fit = rest.iter().take(ROWS).take_while(|row| {
            total += bytes(row);
            total <= BYTES
        });
        let count = 1 << fit.count().max(1).ilog2();
        let (chunk, after) = rest.split_at(count);
        rest = after;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(rows: &[usize]) -> Vec<usize> {
        chunks(rows, |bytes| *bytes).map(<[_]>::len).collect()
    }

    #[test]
    fn chunks_are_powers_of_two_and_bounded() {
        assert_eq!(sizes(&[]), [] as [usize; 0]);
        assert_eq!(sizes(&[1; 100]), [64, 32, 4]);
        assert_eq!(sizes(&[BYTES + 1, BYTES + 1, 1]), [1, 1, 1]);
        assert_eq!(sizes(&[BYTES / 4; 9]), [4, 4, 1]);
    }
}
