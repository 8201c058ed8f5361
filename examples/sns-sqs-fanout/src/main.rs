//! A topic of SNS that fans out to queues of SQS: each group of subscribers has its own, and one of
//! them gets only what its filter lets through.
//!
//! ```text
//! eval "$(cargo xtask services up moto)"
//! cargo run -p sns-sqs-fanout
//! ```
//!
//! or on AWS, with the credentials and the region of the environment:
//!
//! ```text
//! cargo run -p sns-sqs-fanout -- --aws
//! ```
//!
//! The topic and the queues are new ones, and are deleted at the end.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_amazon::{NewQueues, Sns, SnsBuilder, SnsOptions, Sqs};
use streams_core::{Bus, Context, Event, Headers, Result, StreamName, ksuid};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize, Event)]
#[event(key = "customer")]
struct OrderPlaced {
    customer: String,
    total: u32,
}

const NOT_SAID: &str = "\
it is not said where SNS is; set STREAMS_SNS_ENDPOINT, or give --aws for the real one

To start a server on this machine that stands in for it:
  eval \"$(cargo xtask services up moto)\"
or with Docker:
  docker compose up --wait moto
  export STREAMS_SNS_ENDPOINT=http://127.0.0.1:5000";

const GROUPS: [&str; 3] = ["warehouse", "audit", "export"];

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

/// Only the address differs between AWS and a server on this machine.
fn address() -> Result<SnsBuilder, String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [flag] if flag == "--aws" => Ok(Sns::builder()),
        [] => {
            let endpoint = env::var("STREAMS_SNS_ENDPOINT").map_err(|_| NOT_SAID)?;
            let local = Sns::builder().endpoint(endpoint).region("eu-west-1");
            Ok(local.access_key("any", "any"))
        }
        [unknown, ..] => Err(format!(
            "unknown argument `{unknown}`; the only one is --aws"
        )),
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    // All of the chain is created when it is first used: the topic, a queue for each group, its
    // policy, and the subscription. It writes to the topic and reads from the queues.
    let sns = address()?
        .filter_headers(["country"])
        .queues(Sqs::builder().create_queues(NewQueues::new()))
        .build()
        .await?;
    let orders = StreamName::new(format!("order.placed.{}", ksuid()?))?;
    println!("topic {orders}");

    let result = demo(&sns, &orders).await;
    for group in GROUPS {
        sns.delete_queue(&orders, Some(group)).await?;
        // That of what kills its reader each time.
        sns.delete_queue(&orders, Some(&format!("{group}-dlq")))
            .await?;
    }
    sns.delete_topic(&orders).await?;
    Ok(result?)
}

async fn demo(sns: &Sns, orders: &StreamName) -> Result<()> {
    let bus = Bus::builder(sns.clone())
        .event_to::<OrderPlaced>(orders)
        .build()?;
    let (tell, mut told) = mpsc::unbounded_channel();
    for group in GROUPS {
        let tell = tell.clone();
        let subscription = bus.subscribe_event(move |order: OrderPlaced, _: Context| {
            let _ = tell.send((group, order.customer, order.total));
            async {}
        });
        let subscription = subscription.group(group);
        match group {
            // SNS itself looks at the header; what does not match is neither sent nor billed.
            "export" => subscription
                .option(SnsOptions::new().filter_policy(r#"{"country": ["FR", "IT"]}"#))
                .register()?,
            _ => subscription.register()?,
        }
    }
    // A topic keeps nothing: queues get what is published from now on.
    bus.start().await?;

    let placed = [
        ("Ada", "GB", 10),
        ("Blaise", "FR", 20),
        ("Luca", "IT", 30),
        ("Tony", "GB", 40),
    ];
    for (customer, country, total) in placed {
        let mut headers = Headers::new();
        headers.insert("country", country);
        let order = OrderPlaced {
            customer: customer.to_owned(),
            total,
        };
        bus.publisher()
            .with_headers(&headers)
            .publish(&order)
            .await?;
    }
    println!("published {} orders", placed.len());

    let mut handled = Vec::new();
    for _ in 0..2 * placed.len() + 2 {
        handled.extend(told.recv().await);
    }
    handled.sort_unstable();
    for group in GROUPS {
        println!("\n{group}:");
        for (_, customer, total) in handled.iter().filter(|(of, ..)| *of == group) {
            println!("  {customer:<7}{total}");
        }
    }
    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
