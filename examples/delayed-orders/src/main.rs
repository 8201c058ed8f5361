//! An order that is not paid within 15 minutes is cancelled: its payment is asked after by an event for
//! later, which is taken back when the order is paid.
//!
//! ```text
//! cargo run -p delayed-orders
//! ```
//!
//! It runs on a test clock, where 15 minutes pass at once. On Redis, `Redis::builder(url).build()?` takes the
//! place of the driver in memory, and the rest stays: what waits is then kept by the server, whatever becomes
//! of this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_chanbuf::testing::TestBus;
use streams_core::{Bus, Context, Driver, Event, EventRegistry, MessageId, Publisher, Result};

/// How long a customer has to pay.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "order")]
struct OrderPlaced {
    order: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.paid", key = "order")]
struct OrderPaid {
    order: u32,
}

/// Time to look whether an order is paid.
#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.payment-due", key = "order")]
struct PaymentDue {
    order: u32,
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.cancelled", key = "order")]
struct OrderCancelled {
    order: u32,
}

/// What a database would hold.
#[derive(Default)]
struct Orders {
    paid: HashSet<u32>,
    /// The question that waits for each order.
    waiting: HashMap<u32, MessageId>,
}

#[derive(Clone, Default)]
struct Shop {
    orders: Arc<Mutex<Orders>>,
}

impl Shop {
    async fn placed(self, event: OrderPlaced, publisher: Publisher) -> Result<()> {
        let due = PaymentDue { order: event.order };
        let waiting = publisher.publish_after(&due, PATIENCE).await?;
        println!("order {} is placed", event.order);
        self.with(|orders| orders.waiting.insert(event.order, waiting));
        Ok(())
    }

    async fn paid(self, event: OrderPaid, publisher: Publisher) -> Result<()> {
        let waiting = self.with(|orders| {
            orders.paid.insert(event.order);
            orders.waiting.remove(&event.order)
        });
        let taken_back = match waiting {
            Some(waiting) => publisher.cancel::<PaymentDue>(&waiting).await?,
            None => false,
        };
        println!(
            "order {} is paid, the question is taken back: {taken_back}",
            event.order
        );
        Ok(())
    }

    async fn due(self, event: PaymentDue, publisher: Publisher) -> Result<()> {
        // The payment may have come at the same moment: what counts is what was paid.
        if self.with(|orders| orders.paid.contains(&event.order)) {
            return Ok(());
        }
        println!("order {} is not paid in time", event.order);
        publisher
            .publish(&OrderCancelled { order: event.order })
            .await?;
        Ok(())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Orders) -> T) -> T {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its handlers, on any driver that can keep events for later.
    fn open<D: Driver>(&self, bus: &Bus<D>) -> Result<()> {
        let (shop, publisher) = (self.clone(), bus.publisher().clone());
        bus.subscribe_event(move |event: OrderPlaced, _: Context| {
            shop.clone().placed(event, publisher.clone())
        })
        .group("shop")
        .register()?;
        let (shop, publisher) = (self.clone(), bus.publisher().clone());
        bus.subscribe_event(move |event: OrderPaid, _: Context| {
            shop.clone().paid(event, publisher.clone())
        })
        .group("shop")
        .register()?;
        let (shop, publisher) = (self.clone(), bus.publisher().clone());
        bus.subscribe_event(move |event: PaymentDue, _: Context| {
            shop.clone().due(event, publisher.clone())
        })
        .group("shop")
        .register()?;
        bus.subscribe_event(|event: OrderCancelled, _: Context| async move {
            println!("order {} is cancelled", event.order);
        })
        .group("shop")
        .register()?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let events = EventRegistry::new();
    events.register::<OrderPlaced>()?;
    events.register::<OrderPaid>()?;
    events.register::<PaymentDue>()?;
    events.register::<OrderCancelled>()?;
    let test = TestBus::with(Chanbuf::builder(), events)?;
    let bus = test.bus();
    Shop::default().open(bus)?;
    bus.start().await?;

    for order in [1, 2] {
        bus.publish(&OrderPlaced { order }).await?;
    }
    test.wait_idle().await;
    println!("5 minutes pass");
    test.advance(Duration::from_secs(5 * 60)).await;
    bus.publish(&OrderPaid { order: 1 }).await?;
    test.wait_idle().await;
    println!("10 minutes pass");
    test.advance(Duration::from_secs(10 * 60)).await;
    test.wait_drained().await;
    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
