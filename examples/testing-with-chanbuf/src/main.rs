//! Runs the application in memory. See the library.

use std::time::Duration;

use streams_chanbuf::Chanbuf;
use streams_core::{Bus, Context, Result};
use streams_middleware::Retry;
use testing_with_chanbuf::{InvoiceSent, OrderPlaced, app};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bus = Bus::new(Chanbuf::new());
    app(&bus, Retry::default())?;

    let (sent, mut invoices) = mpsc::unbounded_channel();
    bus.subscribe_event(move |invoice: InvoiceSent, _: Context| {
        let _ = sent.send(invoice);
        async {}
    })
    .group("post")
    .register()?;

    bus.start().await?;
    for order in 1..=2 {
        bus.publish(&OrderPlaced {
            order,
            cents: 1000 * order,
        })
        .await?;
        if let Some(invoice) = invoices.recv().await {
            println!(
                "invoice for order {}: {} cents",
                invoice.order, invoice.cents
            );
        }
    }
    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
