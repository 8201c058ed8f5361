//! A small application that is easy to test: its subscriptions are registered on any bus.
//!
//! ```text
//! cargo run -p testing-with-chanbuf
//! cargo test -p testing-with-chanbuf
//! ```
//!
//! In production `app` is given a bus on Kafka, SQS or a database. `main.rs` gives it one in memory,
//! and `tests/app.rs` that of `streams_chanbuf::testing`, which remembers what was published, moves
//! time and makes deliveries fail. The application is the same, and so is everything between it and
//! the driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_core::{Bus, Context, Driver, Event, Handler, HandlerResult, Layer, Outcome, Result};

/// When a customer is reminded of an invoice.
pub const TIME_TO_PAY: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Somebody ordered something.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "order")]
#[expect(missing_docs, reason = "the names say it")]
pub struct OrderPlaced {
    pub order: u32,
    pub cents: u32,
}

/// They were billed for it.
#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "invoice.sent", key = "order")]
#[expect(missing_docs, reason = "the names say it")]
pub struct InvoiceSent {
    pub order: u32,
    pub cents: u32,
}

/// The time to pay is over.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(stream = "payment.due", key = "order")]
#[expect(missing_docs, reason = "the names say it")]
pub struct PaymentDue {
    pub order: u32,
}

/// They were reminded.
#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "reminder.sent", key = "order")]
#[expect(missing_docs, reason = "the names say it")]
pub struct ReminderSent {
    pub order: u32,
}

/// Bills an order, and sees to it that the customer is reminded.
#[derive(Debug)]
pub struct Bill;

impl Handler for Bill {
    async fn handle(&self, context: &Context) -> HandlerResult {
        let OrderPlaced { order, cents } = OrderPlaced::schema().decode(context.message())?;
        let publisher = context.publisher();
        publisher.publish(&InvoiceSent { order, cents }).await?;
        publisher
            .publish_after(&PaymentDue { order }, TIME_TO_PAY)
            .await?;
        Ok(Outcome::Ack)
    }
}

/// Registers the application on a bus. The caller decides on the driver, and on the layer around
/// billing: retries in production, failures in a test.
///
/// # Errors
/// When the bus refuses an event or a subscription.
pub fn app<D: Driver, L: Layer<Bill, Service: Handler>>(bus: &Bus<D>, layer: L) -> Result<()> {
    bus.registry().register::<OrderPlaced>()?;
    bus.registry().register::<InvoiceSent>()?;
    bus.registry().register::<ReminderSent>()?;

    bus.subscribe_handler("order.placed", Bill)
        .group("billing")
        .layer(layer)
        .register()?;

    bus.subscribe_event(|due: PaymentDue, context: Context| async move {
        let reminder = ReminderSent { order: due.order };
        context
            .publisher()
            .publish(&reminder)
            .await
            .map(|_| Outcome::Ack)
    })
    .group("billing")
    .register()
}
