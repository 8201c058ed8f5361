//! Publishes three orders into a directory and handles them, one of them at the second try.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use custom_driver::Directory;
use serde::{Deserialize, Serialize};
use streams_core::{Bus, Context, Error, ErrorKind, Event};

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "customer")]
struct OrderPlaced {
    customer: String,
    cents: u32,
}

#[tokio::main]
async fn main() -> streams_core::Result<()> {
    let root = std::env::args().nth(1).map_or_else(
        || std::env::temp_dir().join(format!("custom-driver-{}", std::process::id())),
        Into::into,
    );
    let bus = Bus::builder(Directory::open(&root)?)
        .event::<OrderPlaced>()
        .build()?;

    // Published before anybody reads: the files are there, and wait.
    for (customer, cents) in [("ada", 1_250), ("grace", 800), ("ada", 4_000)] {
        bus.publish(&OrderPlaced {
            customer: customer.to_owned(),
            cents,
        })
        .await?;
    }

    let total = Arc::new(AtomicU32::new(0));
    let sum = total.clone();
    bus.subscribe_event(move |order: OrderPlaced, context: Context| {
        let sum = sum.clone();
        async move {
            if order.cents == 800 && context.attempt() == 1 {
                return Err(Error::new(ErrorKind::Unavailable, "the till is jammed"));
            }
            println!(
                "{} pays {} cents, at attempt {}",
                order.customer,
                order.cents,
                context.attempt()
            );
            sum.fetch_add(order.cents, Ordering::Relaxed);
            Ok(())
        }
    })
    .group("till")
    .register()?;

    let all_paid = async {
        while total.load(Ordering::Relaxed) < 6_050 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let report = bus.run(all_paid).await?;
    println!("{} cents in all; {report}", total.load(Ordering::Relaxed));
    if std::env::args().nth(1).is_none() {
        let _ = std::fs::remove_dir_all(root);
    }
    Ok(())
}
