//! A real Kafka: two consumer groups, order per key, a retry, a dead letter, and the positions.
//!
//! ```text
//! eval "$(cargo xtask services up kafka)"
//! cargo run -p kafka-example
//! cargo run -p kafka-example -- --brokers HOST:PORT
//! ```
//!
//! Only the driver differs from the examples in memory; handlers are the same. The topics are new
//! ones, and are deleted at the end.

mod brokers;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_core::{
    Assignment, Bus, Context, Event, HandlerError, Message, PartitionListener, Result, StreamName,
    async_trait, dead_letter, ksuid,
};
use streams_kafka::{Kafka, NewTopics};
use tokio::sync::mpsc;

/// The key decides the partition. Orders of one customer are in one, and are handled in order.
#[derive(Serialize, Deserialize, Event)]
#[event(key = "customer")]
struct OrderPlaced {
    customer: String,
    number: u32,
    items: u32,
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
    // A topic that does not exist is created when it is first used.
    let kafka = Kafka::builder(brokers::brokers()?)
        .create_topics(NewTopics::new(3))
        .connect_timeout(Duration::from_secs(5))
        .build()?;
    let orders = StreamName::new(format!("order.placed.{}", ksuid()?))?;
    let dead_letters = orders.dead_letters()?;
    println!("topic {orders}");

    let result = demo(&kafka, &orders, &dead_letters).await;
    let deleted = tokio::try_join!(
        kafka.delete_topic(&orders),
        kafka.delete_topic(&dead_letters)
    );
    result?;
    deleted?;
    Ok(())
}

async fn demo(kafka: &Kafka, orders: &StreamName, dead_letters: &StreamName) -> Result<()> {
    let bus = Bus::builder(kafka.clone())
        .event_to::<OrderPlaced>(orders)
        .build()?;

    // Kafka keeps what is published before anybody subscribes.
    let mut placed = Vec::new();
    for number in 1..=3 {
        for customer in ["Ada", "Grace", "Tony"] {
            placed.push(OrderPlaced {
                customer: customer.to_owned(),
                number,
                items: u32::from((customer, number) != ("Tony", 2)),
            });
        }
    }
    bus.publish_all(&placed).await?;
    println!("published {} orders", placed.len());

    // Each group gets every order, and begins with the oldest.
    let groups = ["warehouse", "audit", "operators"];
    let [warehouse, audit, operators] = groups.map(|name| format!("{name}.{orders}"));
    let (tell, mut told) = mpsc::unbounded_channel();

    let to = tell.clone();
    bus.subscribe_event(move |order: OrderPlaced, context: Context| {
        let result = pack(&order, context.attempt());
        let said = match &result {
            Ok(()) => "packed".to_owned(),
            Err(error) => format!("{error}, at attempt {}", context.attempt()),
        };
        let line = format!("{:<6}order {}: {said}", order.customer, order.number);
        let _ = to.send(Some((order.customer, line)));
        async { result }
    })
    .group(&warehouse)
    .on_partitions(Announce)
    .register()?;

    let to = tell.clone();
    bus.subscribe_event(move |_: OrderPlaced, _: Context| {
        let _ = to.send(None); // it counts, and that shows in the closing report
        async {}
    })
    .group(&audit)
    .register()?;

    bus.subscribe_stream(dead_letters, move |message: Message, _: Context| {
        let reason = message.headers().get_str(dead_letter::headers::REASON);
        let line = format!("dead letter: {}", reason.unwrap_or("?"));
        let _ = tell.send(Some(("dead letters".to_owned(), line)));
        async {}
    })
    .group(&operators)
    .register()?;

    bus.start().await?;
    // Each order in two groups, the second attempt of one, and another as a dead letter.
    let mut lines = Vec::new();
    for _ in 0..2 * placed.len() + 2 {
        lines.extend(told.recv().await.flatten());
    }
    let report = bus.shutdown(Duration::from_secs(10)).await;

    // Customers are handled side by side. Sorting by customer keeps the order within each.
    println!("\nhandled:");
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (_, line) in lines {
        println!("  {line}");
    }

    println!("\nclosing report:");
    for (group, one) in groups.iter().zip(&report.subscriptions) {
        println!(
            "  {group:<10}{} acknowledged, {} retried, {} dead-lettered",
            one.acknowledged, one.retried, one.dead_lettered
        );
    }

    println!("\npositions:");
    let warehouse = kafka.committed(&warehouse, orders).await?;
    let audit = kafka.committed(&audit, orders).await?;
    for (partition, committed) in (0..).zip(warehouse.into_iter().zip(audit)) {
        let (low, high) = kafka.watermarks(orders, partition).await?;
        // A group has no position where it has acknowledged nothing.
        let lag = |position: Option<u64>| high - position.unwrap_or(low);
        println!(
            "  partition {partition}: {} messages, lag of warehouse {}, of audit {}",
            high - low,
            lag(committed.0),
            lag(committed.1)
        );
    }
    Ok(())
}

/// An error is tried again, unless it says that this is of no use: then it is a dead letter.
fn pack(order: &OrderPlaced, attempt: u32) -> Result<(), HandlerError> {
    match (&*order.customer, order.number) {
        _ if order.items == 0 => Err(HandlerError::unrecoverable("there is nothing in the order")),
        ("Grace", 2) if attempt == 1 => Err(HandlerError::new("the shelf is locked")),
        _ => Ok(()),
    }
}

/// Whoever keeps state by partition loads it and saves it in here.
struct Announce;

#[async_trait]
impl PartitionListener for Announce {
    async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
        println!("the warehouse gets partitions {:?}", numbers(partitions));
        Ok(())
    }

    async fn revoking(&self, partitions: &[Assignment]) {
        println!(
            "the warehouse gives partitions {:?} up",
            numbers(partitions)
        );
    }
}

fn numbers(partitions: &[Assignment]) -> Vec<u32> {
    let mut numbers: Vec<_> = partitions.iter().map(|one| one.partition).collect();
    numbers.sort_unstable();
    numbers
}
