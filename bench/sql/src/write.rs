//! Writing in a transaction, beside a statement of the caller's own.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use streams_bench::pairs::compare;
use streams_core::ksuid;

use crate::setup::{Setup, message};

/// Transactions of each run.
const TRANSACTIONS: usize = 2_000;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let (outbox, table) = setup.outbox();
    setup.execute(format!(
        "CREATE TABLE {table}_payments (id BIGINT, note TEXT)"
    ));
    let payment = AssertSqlSafe(format!("INSERT INTO {table}_payments VALUES ($1, $2)"));
    let payment: std::sync::Arc<str> = payment.0.into();
    let by_hand: std::sync::Arc<str> =
        format!("INSERT INTO {table} (batch_id, message_count, raw_data) VALUES ($1, $2, $3)")
            .into();
    // The same bytes, so that they need not be made.
    let raw_data = vec![b'x'; 320];
    let transactions = |ours: bool| {
        let begun = Instant::now();
        setup.runtime.block_on(async {
            let mut connection = setup.pool.acquire().await.expect("a connection");
            for i in 0..TRANSACTIONS {
                let mut transaction = sqlx::Connection::begin(&mut *connection)
                    .await
                    .expect("begun");
                sqlx::query(AssertSqlSafe(payment.clone()))
                    .bind(i64::try_from(i).unwrap_or(0))
                    .bind("paid")
                    .execute(&mut *transaction)
                    .await
                    .expect("a payment");
                if ours {
                    let written = outbox.write_in(&mut transaction, &[message(i)]).await;
                    written.expect("an event");
                } else {
                    let id = ksuid().expect("an id");
                    sqlx::query(AssertSqlSafe(by_hand.clone()))
                        .bind(id.as_str())
                        .bind(1)
                        .bind(&raw_data)
                        .execute(&mut *transaction)
                        .await
                        .expect("an event");
                }
                transaction.commit().await.expect("committed");
            }
        });
        begun.elapsed()
    };
    let compared = compare(|| transactions(false), || transactions(true));
    setup.drop(&format!("{table}_payments"));
    setup.drop(&table);
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(TRANSACTIONS as u32);
    (
        1.0 / compared.ratio,
        format!(
            "{:.0} µs a transaction; with a hand-written INSERT {:.0} µs",
            each(compared.b),
            each(compared.a)
        ),
    )
}
