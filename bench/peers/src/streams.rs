//! Streams, on its in-memory driver.

use std::time::{Duration, Instant};

use bytes::Bytes;
use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::{Bus, Context, Message, StreamName};

use crate::{Error, SIZE};

pub(crate) async fn run(messages: usize, batch: usize) -> Result<Duration, Error> {
    let driver = Chanbuf::new();
    let bus = Bus::new(driver.clone());
    let stream = StreamName::new("bench")?;
    bus.subscribe_stream(&stream, |_: Message, _: Context| async {})
        .group("group")
        .register()?;
    bus.start().await?;
    let publisher = bus.publisher().clone();
    let data = Bytes::from(vec![b'x'; SIZE]);
    let start = Instant::now();
    let publish = tokio::spawn(async move {
        let mut buffer = Vec::with_capacity(batch);
        for index in 0..messages {
            buffer.push(Message::builder(&stream).data(data.clone()).build()?);
            if buffer.len() == batch || index + 1 == messages {
                publisher.write(&buffer).await?;
                buffer.clear();
            }
        }
        Ok::<(), Error>(())
    });
    publish.await??;
    bus.wait_until(|activity| activity.in_flight == 0 && driver.backlog() == Backlog::default())
        .await;
    let took = start.elapsed();
    let report = bus.shutdown(Duration::from_secs(10)).await;
    if report.acknowledged() as usize != messages {
        return Err(report.to_string().into());
    }
    Ok(took)
}
