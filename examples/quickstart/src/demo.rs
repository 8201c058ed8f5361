//! Publish, handle, shut down.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{Bus, Context, Event, Result};

/// An event is a plain type that knows its stream. Events of one key are handled in order.
#[derive(Serialize, Deserialize, Event)]
#[event(stream = "user.created", key = "user_id")]
struct UserCreated {
    user_id: u32,
    name: String,
}

pub(crate) async fn run() -> Result<()> {
    // The driver decides where messages go. This one keeps them in memory.
    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<UserCreated>()
        .build()?;

    // Two consumer groups: each of them gets every event.
    bus.subscribe_event(|event: UserCreated, _: Context| async move {
        println!("handled by group mailer:  a welcome mail to {}", event.name);
    })
    .group("mailer")
    .register()?;

    bus.subscribe_event(|event: UserCreated, context: Context| async move {
        let (user, attempt) = (event.user_id, context.attempt());
        println!("handled by group audit:   user {user} was created, attempt {attempt}");
    })
    .group("audit")
    .register()?;

    bus.start().await?;
    for (user_id, name) in [(1, "Ada"), (2, "Grace"), (3, "Edsger")] {
        let name = name.to_owned();
        println!("published to user.created: {name}");
        bus.publish(&UserCreated { user_id, name }).await?;
    }

    // Publishing returns once the driver has the message; handling goes on in the background. Here
    // we wait until the driver holds nothing more.
    bus.wait_until(|_| driver.backlog() == Backlog::default())
        .await;
    let report = bus.shutdown(Duration::from_secs(10)).await;

    println!("\nclosing report:");
    for one in &report.subscriptions {
        let group = one.group.as_deref().unwrap_or("none");
        println!(
            "  {} handled by group {group}: {}",
            one.stream, one.acknowledged
        );
    }
    Ok(())
}
