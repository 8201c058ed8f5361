//! Transactions that more than one can work in: a handler and the publisher it calls, say.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Pool};
use streams_core::{
    Capabilities, Error, ErrorKind, Message, Order, Result, WriteError, Writer, async_trait,
};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use crate::database::{Database, Dialect, Sql};
use crate::error::{all_from, error};
use crate::outbox::Outbox;
use crate::{DRIVER, schema};

/// For how long one waits for the connection. One statement of others takes less; a guard held by the
/// task that waits would make it wait for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The transaction, with whoever ends it. Dropped, it is rolled back.
pub(crate) struct Owned<DB: Database>(Arc<Mutex<State<DB>>>);

struct State<DB: Database> {
    /// `None` once it has ended.
    open: Option<sqlx::Transaction<'static, DB>>,
    /// Of a batch that was to be written as a whole a part may be missing: it must not be committed.
    failed: bool,
    /// The outboxes that were written to.
    written: Vec<Outbox<DB>>,
}

impl<DB: Database> Owned<DB> {
    pub(crate) async fn begin(pool: &Pool<DB>) -> Result<Self> {
        let begin = AssertSqlSafe(schema::begin_to_write(DB::DIALECT));
        let open = pool.begin_with(begin).await;
        Ok(Self::new(open.map_err(|source| error(source, "begin"))?))
    }

    pub(crate) fn new(open: sqlx::Transaction<'static, DB>) -> Self {
        Self(Arc::new(Mutex::new(State {
            open: Some(open),
            failed: false,
            written: Vec::new(),
        })))
    }

    pub(crate) fn share(&self) -> Transaction<DB> {
        Transaction(Arc::downgrade(&self.0))
    }

    /// Commits it and wakes the relays of what was written.
    pub(crate) async fn commit(self) -> Result<()> {
        let mut state = lock(self.0).await?;
        let mut open = state.open.take().ok_or_else(ended)?;
        if state.failed {
            open.rollback().await.ok();
            return Err(Error::new(
                ErrorKind::Conflict,
                "a batch was not written as a whole, so the transaction was rolled back; begin another",
            )
            .operation("commit")
            .driver(DRIVER));
        }
        let failed = |source| error(source, "commit");
        if DB::DIALECT == Dialect::Postgres {
            // It answers the commit of a failed transaction by rolling it back, without an error.
            // Whoever has swallowed the error of a statement must not take that for a commit.
            let probe = Sql::new(DB::DIALECT, "SELECT 1");
            DB::run(&mut open, &probe).await.map_err(failed)?;
        }
        open.commit().await.map_err(failed)?;
        for outbox in state.written.drain(..) {
            outbox.notify();
        }
        Ok(())
    }

    pub(crate) async fn rollback(self) -> Result<()> {
        let open = lock(self.0).await?.open.take().ok_or_else(ended)?;
        open.rollback()
            .await
            .map_err(|source| error(source, "rollback"))
    }
}

async fn lock<DB: Database>(shared: Arc<Mutex<State<DB>>>) -> Result<OwnedMutexGuard<State<DB>>> {
    let waiting = tokio::time::timeout(LONGEST_WAIT, shared.lock_owned());
    waiting.await.map_err(|_| {
        Error::new(
            ErrorKind::Timeout,
            "the transaction's connection is held by somebody else; let go of it before you publish \
             in the transaction, ask for the connection again, or end it",
        )
        .driver(DRIVER)
    })
}

fn ended() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the transaction has ended; begin another to go on",
    )
    .driver(DRIVER)
}

/// A transaction that somebody else commits or rolls back. Cheap to clone; all work in the same.
///
/// After its end everything here is [`Closed`](streams_core::ErrorKind::Closed).
pub struct Transaction<DB: Database>(Weak<Mutex<State<DB>>>);

impl<DB: Database> Transaction<DB> {
    /// The connection, for statements in the transaction. Others wait until it is let go of.
    ///
    /// ```no_run
    /// # async fn example(tx: streams_sql::Transaction<sqlx::Sqlite>) -> Result<(), Box<dyn std::error::Error>> {
    /// sqlx::query("INSERT INTO payments VALUES (17)")
    ///     .execute(&mut *tx.connection().await?)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Closed`](streams_core::ErrorKind::Closed) after the end of the transaction.
    ///
    /// # Pitfalls
    /// Let go of it before you publish in the transaction or ask for it again: that needs it too,
    /// waits, and fails with [`Timeout`](streams_core::ErrorKind::Timeout) after 30 s.
    pub async fn connection(&self) -> Result<Connection<'_, DB>> {
        let state = self.lock().await?;
        let open = OwnedMutexGuard::try_map(state, |state| Some(&mut **state.open.as_mut()?));
        Ok(Connection {
            connection: open.map_err(|_| ended())?,
            transaction: PhantomData,
        })
    }

    /// A writer that writes to an outbox in the transaction. With [`Publisher::on`] events are
    /// published through it:
    ///
    /// ```
    /// # use streams_core::{Event, Publisher};
    /// # use streams_sql::{Outbox, Sqlite, Transaction};
    /// # async fn example<E: Event>(
    /// #     publisher: Publisher, outbox: Outbox<Sqlite>, tx: Transaction<Sqlite>, event: E,
    /// # ) -> streams_core::Result<()> {
    /// publisher.on(tx.writer(&outbox)).publish(&event).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Its `Ok` says that the messages are in the transaction; they are published if that is
    /// committed. A batch of [`write_in_transaction`](Writer::write_in_transaction) that could not be
    /// written as a whole keeps the transaction from being committed.
    ///
    /// [`Publisher::on`]: streams_core::Publisher::on
    #[must_use]
    pub fn writer(&self, outbox: &Outbox<DB>) -> Arc<dyn Writer> {
        Arc::new(TransactionWriter {
            transaction: self.clone(),
            outbox: outbox.clone(),
            closed: AtomicBool::new(false),
            capabilities: Capabilities::none(DRIVER)
                .durable(true)
                .order(Order::PerKey)
                .transactions(true)
                .creates_streams(true)
                .largest_message(Some(outbox.largest_row()))
                .binary_headers(true),
        })
    }

    async fn lock(&self) -> Result<OwnedMutexGuard<State<DB>>> {
        lock(self.0.upgrade().ok_or_else(ended)?).await
    }
}

impl<DB: Database> Clone for Transaction<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB: Database> fmt::Debug for Transaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

/// The connection of a transaction, for as long as this is held. It derefs to the connection of the
/// database, such as [`sqlx::PgConnection`].
pub struct Connection<'a, DB: Database> {
    connection: OwnedMappedMutexGuard<State<DB>, DB::Connection>,
    /// Whoever ends the transaction has to let go of this first.
    transaction: PhantomData<&'a ()>,
}

impl<DB: Database> Deref for Connection<'_, DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Connection<'_, DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

impl<DB: Database> fmt::Debug for Connection<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

struct TransactionWriter<DB: Database> {
    transaction: Transaction<DB>,
    outbox: Outbox<DB>,
    closed: AtomicBool,
    capabilities: Capabilities,
}

impl<DB: Database> TransactionWriter<DB> {
    async fn open(&self) -> Result<OwnedMutexGuard<State<DB>>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed("the writer").driver(DRIVER));
        }
        self.transaction.lock().await
    }

    /// `whole` says that no part of the batch may be committed without the rest.
    async fn add(&self, batch: &[Message], whole: bool) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = match self.open().await {
            Ok(state) => state,
            Err(error) => return Err(all_from(0, batch.len(), error.operation("write"))),
        };
        let State {
            open,
            failed,
            written,
        } = &mut *state;
        let Some(open) = open else {
            return Err(all_from(0, batch.len(), ended().operation("write")));
        };
        if !written.iter().any(|outbox| outbox.is(&self.outbox)) {
            written.push(self.outbox.clone());
        }
        self.outbox.validate(batch)?;
        // If this is dropped while it writes, nobody knows how much is there.
        let before = std::mem::replace(failed, *failed || whole);
        let done = self.outbox.write_valid(open, batch).await;
        let torn = |error: &WriteError| error.indices().next() != Some(0);
        *failed = before || whole && done.as_ref().is_err_and(torn);
        done
    }
}

#[async_trait]
impl<DB: Database> Writer for TransactionWriter<DB> {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.add(batch, false).await
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        Ok(self.add(batch, true).await?)
    }

    /// What is written is confirmed with the transaction.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Closes the writer. The transaction stays open.
    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
