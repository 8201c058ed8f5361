//! Two services: payments with an outbox in PostgreSQL, and a ledger that reads them from Kafka and
//! books each exactly once.
//!
//! ```text
//! cargo run -p outbox-postgres-kafka
//! ```
//!
//! It starts PostgreSQL and Kafka on this machine (Linux; what is missing is installed, see `services`)
//! and ends them. Set `STREAMS_POSTGRES_URL=postgres://...` and `STREAMS_KAFKA_BROKERS=host:port` for
//! others, such as those of `docker compose up --wait postgres kafka`.
//!
//! `payments.rs` is the first service, `ledger.rs` the second. Between them the relay moves what was
//! committed to Kafka. It loses a confirmation and writes twice; the ledger's inbox sees to it that
//! nothing is booked twice. Each service has a schema for itself; they and the topic are new, and are
//! deleted at the end.

mod ledger;
mod payments;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use streams_core::{Bus, Driver, Event, Result, StreamName, ksuid};
use streams_kafka::{Kafka, NewTopics};
use streams_services::Service;
use streams_sql::Relay;
use tokio::sync::{mpsc, oneshot};

#[derive(Serialize, Deserialize, Event)]
#[event(key = "payer")]
struct PaymentMade {
    payer: String,
    amount: i64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    // Those of the variables, or else started here.
    let brokers = Service::Kafka.address()?;
    let postgres: PgConnectOptions = Service::Postgres.address()?.parse()?;
    let kafka = Kafka::builder(brokers)
        .create_topics(NewTopics::new(3))
        .connect_timeout(Duration::from_secs(5))
        .build()?;
    let server = PgPool::connect_with(postgres.clone()).await?;

    let run = ksuid()?.to_string().to_lowercase();
    println!("run {run}");
    let topic = StreamName::new(format!("payment.made.{run}"))?;
    let schemas = ["payments", "ledger"].map(|service| format!("{service}_{run}"));
    let mut pools = Vec::new();
    for schema in &schemas {
        execute(&server, format!("CREATE SCHEMA {schema}")).await?;
        let options = postgres.clone().options([("search_path", schema)]);
        pools.push(PgPoolOptions::new().connect_lazy_with(options));
    }
    let result = demo(&kafka, &topic, &pools[0], &pools[1]).await;
    for (schema, pool) in schemas.iter().zip(pools) {
        pool.close().await;
        execute(&server, format!("DROP SCHEMA {schema} CASCADE")).await?;
    }
    kafka.delete_topic(&topic).await?;
    result
}

async fn execute(server: &PgPool, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(server).await?;
    Ok(())
}

async fn demo(
    kafka: &Kafka,
    topic: &StreamName,
    payments: &PgPool,
    ledger: &PgPool,
) -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder(kafka.clone())
        .event_to::<PaymentMade>(topic)
        .build()?;

    let outbox = payments::open(payments).await?;
    for (payer, amount) in [("Ada", 30), ("Grace", 500), ("Tony", 20), ("Ada", 5)] {
        let payment = PaymentMade {
            payer: payer.to_owned(),
            amount,
        };
        match payments::pay(&outbox, bus.publisher(), &payment).await {
            Ok(()) => println!("{payer} pays {amount}"),
            Err(error) => println!("{payer} pays {amount}: rolled back: {error}"),
        }
    }

    // The other service.
    let inbox = ledger::open(ledger).await?;
    let (done, mut delivered) = mpsc::unbounded_channel();
    ledger::subscribe(&bus, topic, &inbox, &format!("ledger.{topic}"), done)?;
    bus.start().await?;

    // In production the relay is often a process of its own: `streams-relay`.
    let committed = outbox.pending().await?;
    let writer = payments::LosesConfirmation::new(kafka.writer());
    let relay = Relay::builder(outbox.clone(), Arc::new(writer)).build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stop_asked = async { stopped.await.unwrap_or_default() };
    let relaying = tokio::spawn(async move { relay.run(stop_asked).await });
    for _ in 0..2 * committed {
        delivered.recv().await; // everything comes twice
    }
    let _ = stop.send(());
    let report = relaying.await??;
    println!("relay: wrote {} messages, and is told", report.messages);
    println!("in the outbox: {}", outbox.pending().await?);

    let report = bus.shutdown(Duration::from_secs(10)).await;
    println!("ledger: {} deliveries, booked:", report.acknowledged());
    for (payer, amount) in ledger::bookings(ledger).await? {
        println!("  {payer} {amount}");
    }
    Ok(())
}
