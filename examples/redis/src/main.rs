//! A real Redis: two consumer groups, a retry, a dead letter, a stream that is added to a running
//! subscription, and a replay.
//!
//! ```text
//! eval "$(cargo xtask services up redis)"
//! cargo run -p redis-example
//! ```
//!
//! Only the driver differs from the examples in memory; handlers are the same. The streams are new ones,
//! and are deleted at the end.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_core::{
    Bus, Context, Event, HandlerError, Message, Result, StartFrom, StreamName, dead_letter, ksuid,
};
use streams_redis::{Redis, RedisOptions, StreamSet};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize, Event)]
#[event(key = "customer")]
struct OrderPlaced {
    customer: String,
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
    let url = std::env::var("STREAMS_REDIS_URL").map_err(|_| {
        "it is not said where Redis is; set STREAMS_REDIS_URL, as `eval \"$(cargo xtask services up \
         redis)\"` does"
    })?;
    // Entries that every group is done with go when there are more than that.
    let redis = Redis::builder(url).max_len(1_000).build()?;
    let orders = StreamName::new(format!("order.placed.{}", ksuid()?))?;
    let dead_letters = orders.dead_letters()?;

    let result = demo(&redis, &orders, &dead_letters).await;
    for stream in [&orders, &dead_letters] {
        redis.delete_stream(stream).await?;
    }
    Ok(result?)
}

async fn demo(redis: &Redis, orders: &StreamName, dead_letters: &StreamName) -> Result<()> {
    let bus = Bus::builder(redis.clone())
        .event_to::<OrderPlaced>(orders)
        .build()?;

    // A stream keeps what is published before anybody subscribes.
    let placed = [("Ada", 1), ("Grace", 2), ("Tony", 0)];
    let placed = placed.map(|(customer, items)| OrderPlaced {
        customer: customer.to_owned(),
        items,
    });
    bus.publish_all(&placed).await?;
    println!("published {} orders", placed.len());

    let (tell, mut told) = mpsc::unbounded_channel();
    let to = tell.clone();
    bus.subscribe_event(move |order: OrderPlaced, context: Context| {
        let result = pack(&order, context.attempt());
        let said = match &result {
            Ok(()) => "packed".to_owned(),
            Err(error) => format!("{error}, at attempt {}", context.attempt()),
        };
        let _ = to.send(format!("{:<6}{said}", order.customer));
        async { result }
    })
    .group("warehouse")
    .register()?;

    // Another group gets every order too; and, from some time on, the dead letters.
    let audited = StreamSet::new();
    let own = orders.clone();
    bus.subscribe_stream(orders, move |message: Message, _: Context| {
        if *message.stream() != own {
            let reason = message.headers().get_str(dead_letter::headers::REASON);
            let _ = tell.send(format!("audit of a dead letter: {}", reason.unwrap_or("?")));
        }
        async {}
    })
    .group("audit")
    .option(RedisOptions::new().streams(&audited))
    .register()?;

    bus.start().await?;
    audited.add(dead_letters)?;

    let mut lines = Vec::new();
    while lines.len() < placed.len() + 2 {
        lines.extend(told.recv().await);
    }
    let report = bus.shutdown(Duration::from_secs(10)).await;

    println!("\nhandled:");
    lines.sort();
    for line in lines {
        println!("  {line}");
    }
    println!("\nclosing report:");
    for (group, one) in ["warehouse", "audit"].iter().zip(&report.subscriptions) {
        println!(
            "  {group:<10}{} acknowledged, {} retried, {} dead-lettered",
            one.acknowledged, one.retried, one.dead_lettered
        );
    }

    // A replay reads up to the end as it is now, and ends.
    let (seen, mut replayed) = mpsc::unbounded_channel();
    let replay = Bus::new(redis.clone());
    replay
        .subscribe_stream(orders, move |message: Message, _: Context| {
            let _ = seen.send(message);
            async {}
        })
        .start_from(StartFrom::Earliest)
        .option(RedisOptions::new().bounded(true))
        .register()?;
    replay.start().await?;
    let mut count = 0;
    while replayed.recv().await.is_some() {
        count += 1;
        if count == placed.len() {
            break;
        }
    }
    replay.shutdown(Duration::from_secs(10)).await;
    println!("\nreplayed {count} orders");
    Ok(())
}

/// An error is tried again, unless it says that this is of no use: then it is a dead letter.
fn pack(order: &OrderPlaced, attempt: u32) -> Result<(), HandlerError> {
    match &*order.customer {
        _ if order.items == 0 => Err(HandlerError::unrecoverable("there is nothing in the order")),
        "Grace" if attempt == 1 => Err(HandlerError::new("the shelf is locked")),
        _ => Ok(()),
    }
}
