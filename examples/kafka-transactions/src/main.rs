//! Exactly once on Kafka: one invoice for each order, though the process that writes them dies.
//!
//! ```text
//! eval "$(cargo xtask services up kafka)"
//! cargo run -p kafka-transactions
//! cargo run -p kafka-transactions -- --brokers HOST:PORT
//! ```
//!
//! `billing.rs` is the service that reads orders and writes invoices. This program places the orders,
//! runs the service as a process of its own, again when it has died, and counts the invoices. Take
//! `exactly_once` and its `commit_interval` out of the service, and some orders get two. The topics are
//! new ones, and are deleted at the end.

mod billing;
#[path = "../../kafka/src/brokers.rs"]
mod brokers;

use std::env;
use std::error::Error;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_core::{
    Bus, Driver, Event, ReadOptions, Received, Result, StartFrom, StreamName, ksuid,
};
use streams_kafka::{Kafka, KafkaOptions, NewTopics};

#[derive(Serialize, Deserialize, Event)]
#[event(key = "order")]
struct OrderPlaced {
    order: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(key = "order")]
struct StockReserved {
    order: u32,
    shelf: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(key = "order")]
struct InvoiceDue {
    order: u32,
}

const ORDERS: u32 = 10;
/// Messages that are asked for at once.
const MANY: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The topics of a run. Their names are new for each, so that runs do not meet.
struct Topics {
    orders: StreamName,
    stock: StreamName,
    invoices: StreamName,
}

impl Topics {
    fn of(run: &str) -> Result<Self> {
        Ok(Self {
            orders: StreamName::new(format!("order.placed.{run}"))?,
            stock: StreamName::new(format!("stock.reserved.{run}"))?,
            invoices: StreamName::new(format!("invoice.due.{run}"))?,
        })
    }
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
    let brokers = brokers::brokers()?;
    let kafka = Kafka::builder(&brokers)
        .connect_timeout(Duration::from_secs(5))
        .build()?;
    if let Ok(run) = env::var(billing::RUN) {
        let dies = env::var_os(billing::DIES).is_some();
        return Ok(billing::run(kafka, &Topics::of(&run)?, dies).await?);
    }

    let run = ksuid()?.to_string();
    println!("run {run}");
    let topics = Topics::of(&run)?;
    let all = [&topics.orders, &topics.stock, &topics.invoices];
    for topic in all {
        kafka.create_topic(topic, &NewTopics::new(3)).await?;
    }
    let mut result = demo(&kafka, &topics, &brokers, &run).await;
    for topic in all {
        let deleted = kafka.delete_topic(topic).await;
        result = result.and(deleted.map(|_| ()).map_err(Into::into));
    }
    result
}

async fn demo(
    kafka: &Kafka,
    topics: &Topics,
    brokers: &str,
    run: &str,
) -> Result<(), Box<dyn Error>> {
    place_orders(kafka, topics).await?;
    let orders = read(kafka, &topics.orders, |one: OrderPlaced| one.order).await?;
    let stock = read(kafka, &topics.stock, |one: StockReserved| one.order).await?;
    println!("orders:       {orders:?}");
    println!("reservations: {stock:?}");

    for dies in [true, false] {
        println!("\nbilling starts");
        let ended_well = billing::start(brokers, run, dies).await?.success();
        if ended_well == dies {
            return Err("billing did not end as it should; see above".into());
        }
        let invoices = read(kafka, &topics.invoices, |one: InvoiceDue| one.order).await?;
        println!("invoices for: {invoices:?}");
    }
    Ok(())
}

/// Writes each order to one topic and its reservation to another, both or neither.
async fn place_orders(kafka: &Kafka, topics: &Topics) -> Result<()> {
    let bus = Bus::builder(kafka.clone())
        .event_to::<OrderPlaced>(&topics.orders)
        .event_to::<StockReserved>(&topics.stock)
        .build()?;
    let place = async |order, shelf: &str| {
        let shelf = shelf.to_owned();
        let mut both = bus.publisher().messages(&[OrderPlaced { order }])?;
        both.extend(
            bus.publisher()
                .messages(&[StockReserved { order, shelf }])?,
        );
        bus.publisher().write_in_transaction(&both).await
    };
    for order in 1..=ORDERS {
        place(order, "A").await?;
    }
    // A reservation that is too large to be written, so that its order is not written either.
    let order = ORDERS + 1;
    match place(order, &"A".repeat(2_000_000)).await {
        Ok(()) => println!("order {order}: placed"),
        Err(error) => println!("order {order}: refused, {:?}", error.kind()),
    }
    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

/// The orders that the messages of a topic are about. Readers of this driver get what is committed.
async fn read<E: Event>(
    kafka: &Kafka,
    topic: &StreamName,
    order: fn(E) -> u32,
) -> Result<Vec<u32>> {
    let mut options = ReadOptions::new(topic)?.start_from(StartFrom::Earliest);
    options.driver.insert(KafkaOptions::new().until_end());
    let mut subscription = kafka.reader().subscribe(&options).await?;
    let mut deliveries = Vec::new();
    while subscription.receive(MANY, &mut deliveries).await? != Received::End {}
    subscription.close().await?;

    let schema = E::schema();
    let mut orders = Vec::new();
    for delivery in &deliveries {
        orders.push(order(schema.decode(&delivery.message)?));
    }
    orders.sort_unstable();
    Ok(orders)
}
