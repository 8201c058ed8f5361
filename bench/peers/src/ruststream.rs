//! ruststream, on its in-memory broker, with the payload as bytes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ruststream::OutgoingMessage;
use ruststream::memory::prelude::*;
use tokio::sync::Notify;

use crate::{Error, SIZE};

/// Counts down to the last message.
#[derive(Clone)]
struct Left(Arc<(AtomicUsize, Notify)>);

#[derive(Deserialized)]
struct Frame<'a>(&'a [u8]);

#[subscriber("bench")]
async fn handle(frame: &Frame<'_>, context: &mut Context<'_, (), Left>) -> HandlerOutcome {
    std::hint::black_box(frame.0);
    let (left, done) = &*context.state().0;
    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
        done.notify_one();
    }
    HandlerOutcome::ack()
}

pub(crate) async fn run(messages: usize) -> Result<Duration, Error> {
    let left = Left(Arc::new((AtomicUsize::new(messages), Notify::new())));
    let broker = MemoryBroker::new();
    let state = left.clone();
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(state))
        .with_broker(broker.clone(), |b| {
            b.include(handle);
        });
    let _running = app.start().await.map_err(|error| error.to_string())?;
    let publisher = broker.publisher();
    let data = vec![b'x'; SIZE];
    let start = Instant::now();
    let publish = tokio::spawn(async move {
        for _ in 0..messages {
            let message = OutgoingMessage::new("bench", &data);
            publisher
                .publish(message, None)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok::<(), Error>(())
    });
    publish.await??;
    left.0.1.notified().await;
    Ok(start.elapsed())
}
