//! The payment service: a payment and its event are one transaction of its database.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::PgPool;
use streams_core::{
    Capabilities, ErrorKind, Message, Publisher, Result, WriteError, Writer, async_trait,
};
use streams_sql::{Outbox, Postgres};

use crate::PaymentMade;

/// Its tables, in a schema of its own.
pub(crate) async fn open(pool: &PgPool) -> Result<Outbox<Postgres>, Box<dyn Error>> {
    sqlx::query("CREATE TABLE accounts (owner TEXT PRIMARY KEY, balance BIGINT)")
        .execute(pool)
        .await?;
    sqlx::query("INSERT INTO accounts VALUES ('Ada', 100), ('Grace', 100), ('Tony', 100)")
        .execute(pool)
        .await?;
    let outbox = Outbox::builder(pool.clone()).build()?;
    outbox.migrate().await?;
    Ok(outbox)
}

/// Publishing is the same call as without an outbox. In the transaction, it is undone with the rest.
pub(crate) async fn pay(
    outbox: &Outbox<Postgres>,
    publisher: &Publisher,
    payment: &PaymentMade,
) -> Result<(), Box<dyn Error>> {
    let tx = outbox.begin().await?;
    publisher.on(tx.writer()).publish(payment).await?;
    let paid = sqlx::query(
        "UPDATE accounts SET balance = balance - $1 WHERE owner = $2 AND balance >= $1",
    )
    .bind(payment.amount)
    .bind(&payment.payer)
    .execute(&mut *tx.connection().await?)
    .await?;
    if paid.rows_affected() == 0 {
        return Err("the balance is too small".into()); // `tx` is dropped, and the event goes with it
    }
    tx.commit().await?;
    Ok(())
}

/// A writer whose first confirmation is lost, as when a connection breaks just then. Nobody can tell
/// that from a write that failed, so the relay writes again.
pub(crate) struct LosesConfirmation {
    writer: Arc<dyn Writer>,
    lost: AtomicBool,
}

impl LosesConfirmation {
    pub(crate) fn new(writer: Arc<dyn Writer>) -> Self {
        Self {
            writer,
            lost: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl Writer for LosesConfirmation {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.writer.write(batch).await?;
        if self.lost.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        println!("relay: wrote {} messages, but is not told", batch.len());
        Err(WriteError::all(batch.len(), || {
            streams_core::Error::new(ErrorKind::Timeout, "no confirmation came; write it again")
        }))
    }

    async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.writer.capabilities()
    }
}
