//! A batch handler: many messages in one call, and an outcome for each.
//!
//! ```text
//! cargo run -p batch-handler
//! ```
//!
//! Use one where work is cheaper in bulk, such as one INSERT for many rows. The handler gets what is
//! there, up to the size asked for, without waiting for a batch to fill. It answers for each message
//! alone, so one bad message does not take its batch with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{Batch, BatchOutcome, Bus, Context, Event, HandlerResult, Outcome, Result};

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "measurement")]
struct Measurement {
    sensor: u32,
    celsius: f64,
}

/// Stores all rows at once, and says of each what became of it.
async fn store(batch: Batch) -> BatchOutcome {
    println!("a batch of {}:", batch.len());
    batch.iter().map(store_one).collect()
}

fn store_one(context: &Context) -> HandlerResult {
    // Data that does not decode is an error that no retry mends: it goes to the dead letters.
    let Measurement { sensor, celsius } = Measurement::schema().decode(context.message())?;
    if celsius < -273.15 {
        println!("  sensor {sensor}: dead letter");
        return Ok(Outcome::dead_letter("colder than absolute zero"));
    }
    if sensor == 3 && context.attempt() == 1 {
        println!("  sensor {sensor}: row locked, again in 10 ms");
        return Ok(Outcome::retry_after(Duration::from_millis(10)));
    }
    println!("  sensor {sensor}: stored, attempt {}", context.attempt());
    Ok(Outcome::Ack)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<Measurement>()
        .build()?;

    bus.subscribe_batch("measurement", 4, store)
        .group("store")
        .concurrency(1)
        .register()?;

    bus.start().await?;
    let celsius = [20.5, -300.0, 21.0, 19.5, 22.0, 18.0];
    let events: Vec<_> = (1..)
        .zip(celsius)
        .map(|(sensor, celsius)| Measurement { sensor, celsius })
        .collect();
    bus.publish_all(&events).await?;

    bus.wait_until(|_| driver.backlog() == Backlog::default())
        .await;
    let report = bus.shutdown(Duration::from_secs(10)).await;
    println!("{}", report.subscriptions[0]);
    Ok(())
}
