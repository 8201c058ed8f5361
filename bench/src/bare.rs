//! The yardstick: bare bounded tokio channels, one message at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streams_core::Message;
use tokio::sync::mpsc;

use crate::Source;

/// Messages a channel holds.
const CAPACITY: usize = 1024;

/// Moves messages through one channel per receiver, each fed by the same sender, and says how long
/// it took until every receiver had them all.
///
/// # Panics
/// When a receiver misses one.
pub async fn channels(receivers: usize, messages: usize, mut source: Source) -> Duration {
    let start = Instant::now();
    let mut senders = Vec::new();
    let mut tasks = Vec::new();
    for _ in 0..receivers {
        let (sender, mut receiver) = mpsc::channel::<Arc<Message>>(CAPACITY);
        senders.push(sender);
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while let Some(message) = receiver.recv().await {
                std::hint::black_box(&message);
                count += 1;
            }
            count
        }));
    }
    let publish = tokio::spawn(async move {
        for _ in 0..messages {
            let message = Arc::new(source.message());
            for sender in &senders {
                sender
                    .send(message.clone())
                    .await
                    .expect("a receiver is there");
            }
        }
    });
    publish.await.expect("the sender does not panic");
    for task in tasks {
        assert_eq!(task.await.expect("a receiver does not panic"), messages);
    }
    start.elapsed()
}
