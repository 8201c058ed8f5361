//! Scheduled events: published now, handled later, listed, and taken back.
//!
//! ```text
//! cargo run -p delayed
//! ```
//!
//! Not every backend can do this. `Capabilities::delay` says whether, and how far ahead; where it
//! cannot, `publish_after` fails with `Unsupported` and nothing is published.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_core::{Bus, Context, Event, Result};

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "reminder.due")]
struct ReminderDue {
    text: String,
    due: SystemTime,
}

impl ReminderDue {
    fn new(text: &str, due: SystemTime) -> Self {
        Self {
            text: text.to_owned(),
            due,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bus = Bus::builder(Chanbuf::new())
        .event::<ReminderDue>()
        .build()?;
    let (handled, mut reminders) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_event(move |event: ReminderDue, _: Context| {
        let early = SystemTime::now() < event.due;
        println!(
            "handled: {}{}",
            event.text,
            if early { ", too early" } else { "" }
        );
        let _ = handled.send(event.text);
        async {}
    })
    .group("example")
    .register()?;
    bus.start().await?;

    // A time gone by is now.
    let past = SystemTime::UNIX_EPOCH;
    bus.publish_at(&ReminderDue::new("water boils, at once", past), past)
        .await?;

    // At a time, and after a delay: handled in the order of their due times, not of publishing.
    let due = SystemTime::now() + Duration::from_millis(150);
    bus.publish_at(&ReminderDue::new("tea is ready, at its time", due), due)
        .await?;

    let delay = Duration::from_millis(50);
    let due = SystemTime::now() + delay;
    bus.publish_after(
        &ReminderDue::new("tea is steeping, after 50 ms", due),
        delay,
    )
    .await?;

    // What is not due yet can be listed, and taken back, once.
    let due = SystemTime::now() + Duration::from_secs(3600);
    let coffee = bus
        .publish_at(&ReminderDue::new("coffee", due), due)
        .await?;
    let waiting = bus.publisher().scheduled::<ReminderDue>(100).await?;
    let listed = waiting.iter().any(|one| *one.message.id() == coffee);
    println!("coffee is listed: {listed}");
    let taken_back = bus.publisher().cancel::<ReminderDue>(&coffee).await?;
    println!("cancelled coffee: {taken_back}");
    let again = bus.publisher().cancel::<ReminderDue>(&coffee).await?;
    println!("cancelled it again: {again}");

    for _ in 0..3 {
        reminders.recv().await;
    }
    let report = bus.shutdown(Duration::from_secs(10)).await;
    println!("acknowledged: {}", report.acknowledged());
    Ok(())
}
