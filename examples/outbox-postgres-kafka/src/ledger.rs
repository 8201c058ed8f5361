//! The ledger, another service: it books each payment exactly once, in its own database.

use std::error::Error;

use sqlx::PgPool;
use streams_core::{Bus, Context, HandlerError, Result, StreamName};
use streams_kafka::Kafka;
use streams_middleware::{Next, from_fn};
use streams_sql::{Inbox, Postgres, Transaction};
use tokio::sync::mpsc::UnboundedSender;

use crate::PaymentMade;

/// Its tables, in a schema of its own.
pub(crate) async fn open(pool: &PgPool) -> Result<Inbox<Postgres>, Box<dyn Error>> {
    sqlx::query("CREATE TABLE bookings (payer TEXT, amount BIGINT)")
        .execute(pool)
        .await?;
    let inbox = Inbox::builder(pool.clone()).build()?;
    inbox.migrate().await?;
    Ok(inbox)
}

/// Subscribes. `done` is told of each delivery, those that come again too.
pub(crate) fn subscribe(
    bus: &Bus<Kafka>,
    payments: &StreamName,
    inbox: &Inbox<Postgres>,
    group: &str,
    done: UnboundedSender<()>,
) -> Result<()> {
    // The booking and the mark "handled" are one transaction. A message that comes again finds the
    // mark, and is acknowledged without a call.
    let book = inbox.event_fn(
        |payment: PaymentMade, _: Context, tx: Transaction<Postgres>| async move {
            sqlx::query("INSERT INTO bookings VALUES ($1, $2)")
                .bind(&payment.payer)
                .bind(payment.amount)
                .execute(&mut *tx.connection().await?)
                .await?;
            Ok::<_, HandlerError>(())
        },
    );
    let count = from_fn(move |context: Context, next: Next<_>| {
        let done = done.clone();
        async move {
            let outcome = next.run(context).await;
            let _ = done.send(());
            outcome
        }
    });
    bus.subscribe_handler(payments, book)
        .group(group)
        .layer(count)
        .register()
}

/// Who paid how much, as it is in the books.
pub(crate) async fn bookings(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("SELECT payer, amount FROM bookings ORDER BY payer, amount")
        .fetch_all(pool)
        .await
}
