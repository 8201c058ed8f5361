//! The billing service: for each order, an invoice.

use std::env;
use std::io;
use std::process::{self, ExitStatus};
use std::time::Duration;

use streams_core::{Bus, Context, HandlerError, Result};
use streams_kafka::{Kafka, KafkaOptions};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::{InvoiceDue, ORDERS, OrderPlaced, Topics};

/// Set where this program is to be the service, and for which run.
pub(crate) const RUN: &str = "BILLING_RUN";
/// Set where the service is to die at its work.
pub(crate) const DIES: &str = "BILLING_DIES";

/// Handles all orders.
pub(crate) async fn run(kafka: Kafka, topics: &Topics, dies: bool) -> Result<()> {
    let bus = Bus::builder(kafka)
        .event_to::<OrderPlaced>(&topics.orders)
        .event_to::<InvoiceDue>(&topics.invoices)
        .build()?;
    let (done, mut handled) = mpsc::unbounded_channel();
    bus.subscribe_event(move |OrderPlaced { order }, context: Context| {
        let done = done.clone();
        async move {
            // It is written later, in one transaction with the acknowledgement of the order.
            context.publisher().publish(&InvoiceDue { order }).await?;
            if dies && order == 7 {
                println!("order 7: the invoice is published, and the process dies");
                process::abort();
            }
            if !dies && order == 3 && context.attempt() == 1 {
                println!("order 3: the invoice is published, and the handler fails");
                return Err(HandlerError::new("the printer is out of paper"));
            }
            let _ = done.send(());
            Ok(())
        }
    })
    .group(format!("billing.{}", topics.orders))
    .exactly_once()
    // So many orders share a transaction; here, all of them.
    .commit_interval(Duration::from_secs(10))
    // Started again under its name, it has its partitions at once. Without one, they are kept for the
    // member that died until its session has timed out, 45 s by default.
    .option(KafkaOptions::new().instance_id("billing-0"))
    .register()?;

    let all_handled = async {
        for _ in 0..ORDERS {
            handled.recv().await;
        }
    };
    // At the end it shuts down, and commits what is handled.
    let report = bus.run(all_handled).await?;
    println!("{} orders handled", report.acknowledged());
    Ok(())
}

/// Runs this program as the service, in a process of its own, to its end.
pub(crate) async fn start(brokers: &str, run: &str, dies: bool) -> io::Result<ExitStatus> {
    let mut service = Command::new(env::current_exe()?);
    service.env("STREAMS_KAFKA_BROKERS", brokers).env(RUN, run);
    if dies {
        service.env(DIES, "yes");
    }
    service.kill_on_drop(true).status().await
}
