//! Transactions begun for an outbox.

use std::fmt;
use std::sync::Arc;

use streams_core::{Result, Writer};

use super::Outbox;
use crate::database::Database;
use crate::transaction::{Connection, Owned, Transaction};

impl<DB: Database> Outbox<DB> {
    /// Begins a transaction, in which code that publishes through a [`Writer`] or a
    /// [`Publisher`](streams_core::Publisher) works unchanged.
    ///
    /// # Errors
    /// When the database cannot be reached, or the pool has no connection left.
    pub async fn begin(&self) -> Result<OutboxTransaction<DB>> {
        Ok(self.transaction(Owned::begin(self.pool()).await?))
    }

    /// Goes on in a transaction that you have begun.
    pub fn join(&self, transaction: sqlx::Transaction<'static, DB>) -> OutboxTransaction<DB> {
        self.transaction(Owned::new(transaction))
    }

    fn transaction(&self, owned: Owned<DB>) -> OutboxTransaction<DB> {
        OutboxTransaction {
            outbox: self.clone(),
            shared: owned.share(),
            owned,
        }
    }
}

/// A transaction with an outbox: made by [`Outbox::begin`] and [`Outbox::join`]. Dropped, it is
/// rolled back, and nothing of it is ever published.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use streams_core::{Event, NoopWriter, Publisher, Schema};
/// # #[derive(Serialize, Deserialize)] struct PaymentMade { id: i64 }
/// # impl Event for PaymentMade {
/// #     fn schema() -> Schema<Self> { Schema::json("PaymentMade").stream("payment.made") }
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use sqlx::sqlite::SqlitePoolOptions;
/// # let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::query("CREATE TABLE payments (id INTEGER)").execute(&pool).await?;
/// # let publisher = Publisher::builder(std::sync::Arc::new(NoopWriter::new())).build();
/// # publisher.registry().register::<PaymentMade>()?;
/// # let outbox = streams_sql::Outbox::builder(pool.clone()).build()?;
/// # outbox.migrate().await?;
/// let tx = outbox.begin().await?;
/// sqlx::query("INSERT INTO payments VALUES (17)")
///     .execute(&mut *tx.connection().await?)
///     .await?;
/// publisher.on(tx.writer()).publish(&PaymentMade { id: 17 }).await?;
/// tx.commit().await?;
/// # assert_eq!(outbox.pending().await?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[must_use = "a transaction that is dropped is rolled back; call `commit`"]
pub struct OutboxTransaction<DB: Database> {
    outbox: Outbox<DB>,
    shared: Transaction<DB>,
    owned: Owned<DB>,
}

impl<DB: Database> OutboxTransaction<DB> {
    /// The connection, for statements in the transaction: see [`Transaction::connection`].
    ///
    /// # Errors
    /// As [`Transaction::connection`].
    pub async fn connection(&self) -> Result<Connection<'_, DB>> {
        self.shared.connection().await
    }

    /// A writer to the outbox in the transaction: see [`Transaction::writer`]. After the end of the
    /// transaction it refuses with [`Closed`](streams_core::ErrorKind::Closed).
    #[must_use]
    pub fn writer(&self) -> Arc<dyn Writer> {
        self.shared.writer(&self.outbox)
    }

    /// Commits the transaction and wakes the relays of this process.
    ///
    /// # Errors
    /// - [`Conflict`](streams_core::ErrorKind::Conflict) when a statement has failed before; the
    ///   transaction was rolled back.
    /// - [`Unavailable`](streams_core::ErrorKind::Unavailable) when the connection broke. Nobody can
    ///   tell whether it was committed.
    pub async fn commit(self) -> Result<()> {
        self.owned.commit().await
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// When the connection broke; the database rolls back then.
    pub async fn rollback(self) -> Result<()> {
        self.owned.rollback().await
    }
}

impl<DB: Database> fmt::Debug for OutboxTransaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxTransaction")
            .field("outbox", &self.outbox)
            .finish_non_exhaustive()
    }
}
