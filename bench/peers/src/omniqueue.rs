//! omniqueue, on its in-memory backend.

use std::time::{Duration, Instant};

use omniqueue::backends::InMemoryBackend;

use crate::{Error, SIZE};

pub(crate) async fn run(messages: usize) -> Result<Duration, Error> {
    let (producer, mut consumer) = InMemoryBackend::builder().build_pair().await?;
    let data = vec![b'x'; SIZE];
    let start = Instant::now();
    let publish = tokio::spawn(async move {
        for _ in 0..messages {
            producer.send_raw(&data).await?;
        }
        Ok::<(), Error>(())
    });
    let consume = tokio::spawn(async move {
        for _ in 0..messages {
            let delivery = consumer.receive().await?;
            delivery.ack().await.map_err(|(error, _)| error)?;
        }
        Ok::<(), Error>(())
    });
    publish.await??;
    consume.await??;
    Ok(start.elapsed())
}
