//! Middleware in the right order: logging, dead letters, retry and deduplication around one handler.
//!
//! ```text
//! cargo run -p middleware-example
//! ```
//!
//! An order fails until it is a dead letter; then the cause is repaired, and the dead letter is
//! brought back and handled. An order that comes twice is handled once. What happens goes to the
//! standard output, the log of the layers to standard error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{
    Backoff, Bus, Context, Error, ErrorKind, Event, Message, Outcome, Result, dead_letter,
};
use streams_middleware::{DeadLetters, Deduplication, Logging, MokaStorage, Retry};
use tower::ServiceBuilder;

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "order")]
struct OrderPlaced {
    order: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::DEBUG)
        .without_time()
        .init();

    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<OrderPlaced>()
        .build()?;

    // The first layer is the outermost. Logging says what became of the message in the end; dead
    // letters take what retry has given up; deduplication is next to the handler, so that only what
    // was really handled counts as done.
    let layers = ServiceBuilder::new()
        .layer(Logging::new())
        .layer(DeadLetters::new(bus.publisher().writer().clone()))
        .layer(Retry::new(Backoff::constant(Duration::from_millis(10)), 3)?)
        .layer(Deduplication::new(Arc::new(MokaStorage::new(10_000)?)));

    let repaired = Arc::new(AtomicBool::new(false));
    let is_repaired = repaired.clone();
    bus.subscribe_event(move |event: OrderPlaced, context: Context| {
        let works = event.order == "A-1" || is_repaired.load(Ordering::Relaxed);
        async move {
            let (order, attempt) = (event.order, context.attempt());
            if works {
                println!("order {order}: handled at attempt {attempt}");
                return Ok(());
            }
            println!("order {order}: failed at attempt {attempt}");
            Err(Error::new(
                ErrorKind::Unavailable,
                "the warehouse does not answer",
            ))
        }
    })
    .group("warehouse")
    .layer(layers)
    .register()?;

    // Somebody looks at the dead letters, and brings them back once the cause is repaired.
    bus.subscribe_stream("order.placed.dlq", {
        let repaired = repaired.clone();
        move |message: Message, context: Context| {
            let header = |name| message.headers().get_str(name).unwrap_or("?").to_owned();
            let reason = header(dead_letter::headers::REASON);
            let attempts = header(dead_letter::headers::ATTEMPTS);
            println!("dead letter: {reason}, after {attempts} attempts");
            repaired.store(true, Ordering::Relaxed);
            async move {
                println!("repaired; bringing it back");
                context
                    .publisher()
                    .write(&[dead_letter::redrive(&message)?])
                    .await?;
                Ok::<_, Error>(Outcome::Ack)
            }
        }
    })
    .group("operators")
    .register()?;

    bus.start().await?;
    let idle = || bus.wait_until(|_| driver.backlog() == Backlog::default());

    let [message] = &bus.publisher().messages(&[OrderPlaced {
        order: "A-1".to_owned(),
    }])?[..] else {
        unreachable!("one event is one message")
    };
    for _ in 0..2 {
        println!("published: order A-1");
        bus.publisher().write(std::slice::from_ref(message)).await?;
        idle().await;
    }
    println!("published: order A-2");
    bus.publish(&OrderPlaced {
        order: "A-2".to_owned(),
    })
    .await?;
    idle().await;

    bus.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
