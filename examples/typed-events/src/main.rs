//! Typed events: JSON and protobuf, what the registry knows, and data that does not decode.
//!
//! ```text
//! cargo run -p typed-events
//! ```
//!
//! `#[derive(Event)]` says where an event goes, by which key it is ordered, and how it is encoded. A
//! handler gets the decoded event. Data that does not decode goes to the stream's dead letters, with
//! the reason, and the stream goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{Bus, ContentType, Context, Event, Message, MessageId, Result, dead_letter};

/// JSON is the default codec. A field can be the key, and another go into a header too.
#[derive(Serialize, Deserialize, Event)]
#[event(stream = "user.created", key = "user_id", version = 2)]
struct UserCreated {
    user_id: u64,
    name: String,
    #[event(header = "tenant")]
    tenant: String,
}

/// A prost message is an event as well.
#[derive(prost::Message, Event)]
#[event(stream = "payment.made", key = "user_id", codec = "protobuf")]
struct PaymentMade {
    #[prost(uint64, tag = "1")]
    user_id: u64,
    #[prost(uint32, tag = "2")]
    cents: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<UserCreated>()
        .event::<PaymentMade>()
        .build()?;

    println!("registered:");
    for event in bus.registry().events() {
        println!(
            "  {} version {} on {} as {}",
            event.name, event.version, event.stream, event.content_type
        );
    }

    bus.subscribe_event(|event: UserCreated, context: Context| async move {
        let tenant = context.headers().get_str("tenant").unwrap_or("?");
        println!(
            "user {} is {}, header tenant={tenant}",
            event.user_id, event.name
        );
    })
    .group("example")
    .register()?;

    bus.subscribe_event(|event: PaymentMade, context: Context| async move {
        let bytes = context.message().data().len();
        println!(
            "user {} paid {} cents, in {bytes} bytes",
            event.user_id, event.cents
        );
    })
    .group("example")
    .register()?;

    bus.subscribe_stream(
        "user.created.dlq",
        |message: Message, _: Context| async move {
            let reason = message.headers().get_str(dead_letter::headers::REASON);
            println!("dead letter {}: {}", message.id(), reason.unwrap_or("?"));
        },
    )
    .group("example")
    .register()?;

    bus.start().await?;
    let idle = || bus.wait_until(|_| driver.backlog() == Backlog::default());

    println!("\npublished:");
    bus.publish(&user(1, "Ada")).await?;
    idle().await;
    bus.publish(&PaymentMade {
        user_id: 1,
        cents: 1250,
    })
    .await?;
    idle().await;

    println!("\nbad data, then good:");
    let bad = Message::builder("user.created")
        .id(MessageId::new("bad-1")?)
        .content_type(ContentType::JSON)
        .data(r#"{"user_id":"two"}"#)
        .build()?;
    bus.publisher().write(&[bad]).await?;
    idle().await;
    bus.publish(&user(2, "Grace")).await?;
    idle().await;

    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

fn user(user_id: u64, name: &str) -> UserCreated {
    UserCreated {
        user_id,
        name: name.to_owned(),
        tenant: "acme".to_owned(),
    }
}
