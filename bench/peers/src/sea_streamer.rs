//! sea-streamer, on standard output looped back, which is its only form within a process.

use std::time::{Duration, Instant};

use sea_streamer_stdio::{StdioConnectOptions, StdioStreamer};
use sea_streamer_types::{Consumer, Producer, StreamKey, Streamer, StreamerUri};

use crate::{Error, SIZE};

pub(crate) async fn run(messages: usize) -> Result<Duration, Error> {
    let stream = StreamKey::new("bench")?;
    let mut options = StdioConnectOptions::default();
    options.set_loopback(true);
    let streamer = StdioStreamer::connect(StreamerUri::zero(), options).await?;
    let producer = streamer
        .create_producer(stream.clone(), Default::default())
        .await?;
    let consumer = streamer
        .create_consumer(&[stream], Default::default())
        .await?;
    let data = "x".repeat(SIZE);
    let start = Instant::now();
    let publish = tokio::spawn(async move {
        for _ in 0..messages {
            // The receipt is not waited for: its own examples do not, and it would be far slower.
            drop(producer.send(data.as_str())?);
        }
        Ok::<(), Error>(())
    });
    let consume = tokio::spawn(async move {
        for _ in 0..messages {
            consumer.next().await?;
        }
        Ok::<(), Error>(())
    });
    publish.await??;
    consume.await??;
    Ok(start.elapsed())
}
