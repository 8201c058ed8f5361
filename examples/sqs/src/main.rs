//! Queues of SQS: order per key in a FIFO queue, a retry, a dead letter and the way back, and a delayed
//! message.
//!
//! ```text
//! eval "$(cargo xtask services up elasticmq)"
//! cargo run -p sqs
//! ```
//!
//! or on AWS, with the credentials and the region of the environment:
//!
//! ```text
//! cargo run -p sqs -- --aws
//! ```
//!
//! The queues are new ones, and are deleted at the end.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use streams_amazon::{NewQueues, Sqs, SqsBuilder};
use streams_core::{
    Bus, Context, Event, HandlerError, Message, Result, StreamName, dead_letter, ksuid,
};
use tokio::sync::mpsc;

/// The key decides the group of a FIFO queue. Orders of one customer are handled in order.
#[derive(Serialize, Deserialize, Event)]
#[event(key = "customer")]
struct OrderPlaced {
    customer: String,
    number: u32,
    items: u32,
}

#[derive(Serialize, Deserialize, Event)]
struct ReminderDue {
    customer: String,
}

const NOT_SAID: &str = "\
it is not said where SQS is; set STREAMS_ELASTICMQ_ENDPOINT, or give --aws for the real one

To start a server on this machine that stands in for it:
  eval \"$(cargo xtask services up elasticmq)\"
or with Docker:
  docker compose up --wait elasticmq
  export STREAMS_ELASTICMQ_ENDPOINT=http://127.0.0.1:9324";

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
fn address() -> Result<SqsBuilder, String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [flag] if flag == "--aws" => Ok(Sqs::builder()),
        [] => {
            let endpoint = env::var("STREAMS_ELASTICMQ_ENDPOINT").map_err(|_| NOT_SAID)?;
            let local = Sqs::builder().endpoint(endpoint).region("elasticmq");
            Ok(local.access_key("any", "any"))
        }
        [unknown, ..] => Err(format!(
            "unknown argument `{unknown}`; the only one is --aws"
        )),
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    // A queue that does not exist is created when it is first used, with one for its dead letters.
    let sqs = address()?.create_queues(NewQueues::new()).build().await?;
    let unique = ksuid()?;
    let orders = StreamName::new(format!("order.placed.{unique}.fifo"))?;
    let reminders = StreamName::new(format!("reminder.due.{unique}"))?;
    println!("queue {orders}");

    let result = demo(&sqs, &orders, &reminders).await;
    for queue in [&orders, &reminders] {
        sqs.delete_queue(queue).await?;
        sqs.delete_queue(queue.dead_letters()?).await?;
    }
    Ok(result?)
}

async fn demo(sqs: &Sqs, orders: &StreamName, reminders: &StreamName) -> Result<()> {
    let bus = Bus::builder(sqs.clone())
        .event_to::<OrderPlaced>(orders)
        .event_to::<ReminderDue>(reminders)
        .build()?;
    let (tell, mut told) = mpsc::unbounded_channel();

    // SQS keeps what is published before anybody subscribes. All of it goes in one request.
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
    let due = SystemTime::now() + Duration::from_secs(2);
    let customer = "Grace".to_owned();
    bus.publish_at(&ReminderDue { customer }, due).await?;

    // A queue has no groups: who reads it shares its messages.
    let to = tell.clone();
    bus.subscribe_event(move |order: OrderPlaced, context: Context| {
        let again = context.message().headers();
        let again = again.get(dead_letter::headers::REDRIVEN).is_some();
        let result = pack(&order, context.attempt(), again);
        let said = match &result {
            Ok(()) => "packed".to_owned(),
            Err(error) => format!("{error}, at attempt {}", context.attempt()),
        };
        let line = format!("{:<6}order {}: {said}", order.customer, order.number);
        let _ = to.send((order.customer, line));
        async { result }
    })
    .ordered_by_key()
    .register()?;

    let to = tell.clone();
    bus.subscribe_event(move |reminder: ReminderDue, _: Context| {
        let early = SystemTime::now() < due;
        let line = if early {
            "too early"
        } else {
            "when it was due"
        };
        let line = format!("{:<6}reminded {line}", reminder.customer);
        let _ = to.send((reminder.customer, line));
        async {}
    })
    .register()?;

    // Somebody has looked at the dead letters, and brings them back.
    let publisher = bus.publisher().clone();
    bus.subscribe_stream(
        orders.dead_letters()?,
        move |letter: Message, _: Context| {
            let reason = letter.headers().get_str(dead_letter::headers::REASON);
            let line = format!("brought back: {}", reason.unwrap_or("?"));
            let (to, publisher) = (tell.clone(), publisher.clone());
            async move {
                publisher.write(&[dead_letter::redrive(&letter)?]).await?;
                let _ = to.send(("dead letters".to_owned(), line));
                Ok::<_, HandlerError>(())
            }
        },
    )
    .register()?;

    bus.start().await?;
    // Each order once, the second attempts of two, a dead letter, and the reminder.
    let mut lines = Vec::new();
    for _ in 0..placed.len() + 4 {
        lines.extend(told.recv().await);
    }
    let report = bus.shutdown(Duration::from_secs(10)).await;

    // Customers are handled side by side. Sorting by customer keeps the order within each.
    println!("\nhandled:");
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (_, line) in lines.iter().filter(|(_, line)| !line.contains("reminded")) {
        println!("  {line}");
    }
    for (_, line) in lines.iter().filter(|(_, line)| line.contains("reminded")) {
        println!("  {line}");
    }

    println!("\nclosing report:");
    let names = ["orders", "reminders", "dead letters"];
    for (name, one) in names.iter().zip(&report.subscriptions) {
        println!(
            "  {name:<13}{} acknowledged, {} retried, {} dead-lettered",
            one.acknowledged, one.retried, one.dead_lettered
        );
    }
    Ok(())
}

/// An error is tried again, unless it says that this is of no use: then it is a dead letter.
fn pack(order: &OrderPlaced, attempt: u32, again: bool) -> Result<(), HandlerError> {
    match (&*order.customer, order.number) {
        _ if order.items == 0 && !again => {
            Err(HandlerError::unrecoverable("there is nothing in the order"))
        }
        ("Grace", 2) if attempt == 1 => Err(HandlerError::new("the shelf is locked")),
        _ => Ok(()),
    }
}
