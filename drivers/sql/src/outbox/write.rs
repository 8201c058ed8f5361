//! Writing to the outbox.

use streams_core::{Error, ErrorKind, Message, WriteError, ksuid};

use super::Outbox;
use crate::DRIVER;
use crate::database::{Database, Value};
use crate::error::{all_from, error};

impl<DB: Database> Outbox<DB> {
    /// Writes messages in the transaction that a connection is in: they are published if it is
    /// committed, and never if it is not. One row in one statement, or several where the batch is
    /// larger than a [row](crate::OutboxBuilder::largest_row) may be. An empty batch is `Ok`.
    ///
    /// On a connection without a transaction each row is committed by itself.
    ///
    /// # Errors
    /// The failed indices, each with its reason. If a message is at fault, nothing has been written:
    /// [`EmptyMessage`](streams_core::ErrorKind::EmptyMessage) for one without data,
    /// [`TooLarge`](streams_core::ErrorKind::TooLarge). If the database fails, roll the transaction
    /// back; PostgreSQL accepts nothing else.
    pub async fn write_in(
        &self,
        connection: &mut DB::Connection,
        batch: &[Message],
    ) -> Result<(), WriteError> {
        self.validate(batch)?;
        self.write_valid(connection, batch).await
    }

    /// Writes messages that are fit to be written. An error says from which on they were not.
    pub(crate) async fn write_valid(
        &self,
        connection: &mut DB::Connection,
        batch: &[Message],
    ) -> Result<(), WriteError> {
        let mut written = 0;
        for row in rows(batch, self.0.largest_row) {
            if let Err(failed) = self.insert(connection, row).await {
                return Err(all_from(written, batch.len(), failed));
            }
            written += row.len();
        }
        Ok(())
    }

    async fn insert(
        &self,
        connection: &mut DB::Connection,
        row: &[Message],
    ) -> streams_core::Result<()> {
        let id = ksuid()?;
        let values = [
            Value::Text(id.as_str()),
            Value::Int(i64::try_from(row.len()).unwrap_or(i64::MAX)),
            Value::Bytes(&streams_outbox::encode(row)),
        ];
        let done = DB::execute(connection, &self.0.insert, &values).await;
        done.map_err(|source| error(source, "write").with("table", &self.0.table))?;
        Ok(())
    }

    /// Refuses what is not fit to be written.
    pub(crate) fn validate(&self, batch: &[Message]) -> Result<(), WriteError> {
        let limit = self.0.largest_row;
        let problem = |message: &Message| {
            let error = if message.data().is_empty() {
                Error::new(
                    ErrorKind::EmptyMessage,
                    "the message has no data; set it with `data`",
                )
            } else if message.size() > limit {
                Error::new(
                    ErrorKind::TooLarge,
                    "the message is larger than a row of the outbox may be; split it, or raise \
                     `largest_row`",
                )
                .with("size", message.size())
                .with("limit", limit)
            } else {
                return None;
            };
            let error = error.operation("write").driver(DRIVER);
            Some(error.with("stream", message.stream()))
        };
        let failures: Vec<_> = batch
            .iter()
            .enumerate()
            .filter_map(|(index, message)| Some((index, problem(message)?)))
            .collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }
}

/// The batch in parts of at most so many bytes, but of at least one message.
fn rows(mut batch: &[Message], largest: usize) -> impl Iterator<Item = &[Message]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += message.size();
            bytes <= largest
        };
        let count = batch.iter().take_while(fits).count().max(1);
        let (row, rest) = batch.split_at_checked(count)?;
        batch = rest;
        Some(row)
    })
}
