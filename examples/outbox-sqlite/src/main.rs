//! The transactional outbox: a payment and its event are one change, or there is neither.
//!
//! ```text
//! cargo run -p outbox-sqlite
//! ```
//!
//! The event is written to a table of the database, in the payment's own transaction. A relay forwards
//! what was committed: here to handlers in memory, elsewhere to Kafka. Nothing needs a server.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use streams_chanbuf::Chanbuf;
use streams_core::{Bus, Context, Driver, Event, Publisher};
use streams_sql::{Outbox, Relay, Sqlite};
use tokio::sync::{mpsc, oneshot};

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "payment.made", key = "payer")]
struct PaymentMade {
    payer: String,
    amount: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new()
        .filename(folder.path().join("bank.db"))
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(file).await?;
    open_accounts(&pool).await?;
    let outbox = Outbox::builder(pool.clone()).build()?;
    outbox.migrate().await?;

    // Whoever is told of payments knows nothing of the database.
    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<PaymentMade>()
        .build()?;
    let (tell, mut told) = mpsc::unbounded_channel();
    bus.subscribe_event(move |payment: PaymentMade, _: Context| {
        println!("receipt: {} paid {}", payment.payer, payment.amount);
        let _ = tell.send(());
        async {}
    })
    .group("receipts")
    .concurrency(1) // for the same output each time
    .register()?;
    bus.start().await?;

    let mut paid = 0;
    for (payer, amount) in [("Ada", 30), ("Grace", 500), ("Tony", 20)] {
        let payer = payer.to_owned();
        match pay(&outbox, bus.publisher(), &PaymentMade { payer, amount }).await {
            Ok(()) => paid += 1,
            Err(error) => println!("  rolled back: {error}"),
        }
    }
    println!("in the outbox: {} payments\n", outbox.pending().await?);

    // A relay of this process. In production it is often a process of its own: see `relay`.
    let relay = Relay::builder(outbox.clone(), driver.writer()).build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stop_asked = async { stopped.await.unwrap_or_default() };
    let relaying = tokio::spawn(async move { relay.run(stop_asked).await });
    for _ in 0..paid {
        told.recv().await;
    }
    let _ = stop.send(());
    let report = relaying.await??;
    bus.shutdown(Duration::from_secs(10)).await;

    println!("\nrelayed: {} messages", report.messages);
    println!("in the outbox: {}", outbox.pending().await?);
    let balances: Vec<(String, i64)> = sqlx::query_as("SELECT * FROM accounts ORDER BY owner")
        .fetch_all(&pool)
        .await?;
    for (owner, balance) in balances {
        println!("balance of {owner}: {balance}");
    }
    pool.close().await;
    Ok(())
}

/// Publishing is the same call as without an outbox. In the transaction, it is undone with the rest.
async fn pay(
    outbox: &Outbox<Sqlite>,
    publisher: &Publisher,
    payment: &PaymentMade,
) -> Result<(), Box<dyn Error>> {
    println!("{} pays {}", payment.payer, payment.amount);
    let tx = outbox.begin().await?;
    publisher.on(tx.writer()).publish(payment).await?;
    let paid =
        sqlx::query("UPDATE accounts SET balance = balance - ? WHERE owner = ? AND balance >= ?")
            .bind(payment.amount)
            .bind(&payment.payer)
            .bind(payment.amount)
            .execute(&mut *tx.connection().await?)
            .await?;
    if paid.rows_affected() == 0 {
        return Err("the balance is too small".into()); // `tx` is dropped, and the event goes with it
    }
    tx.commit().await?;
    Ok(())
}

async fn open_accounts(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query("CREATE TABLE accounts (owner TEXT PRIMARY KEY, balance INTEGER)")
        .execute(pool)
        .await?;
    sqlx::query("INSERT INTO accounts VALUES ('Ada', 100), ('Grace', 100), ('Tony', 100)")
        .execute(pool)
        .await?;
    Ok(())
}
