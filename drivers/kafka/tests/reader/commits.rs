//! That positions are committed again and again, not only once.

use std::time::{Duration, Instant};

use streams_core::ReadOptions;
use streams_kafka::{KafkaOptions, NewTopics};

use crate::support::{committed, kafka, subscribe, take, topic, write};

/// One commit does not hold up the next.
#[tokio::test]
async fn positions_are_committed_at_every_interval() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "intervals", &NewTopics::new(1)).await;
    write(&kafka, &stream, 5, 1).await;
    let mut options = ReadOptions::new(&stream)
        .unwrap()
        .group(stream.as_str())
        .unwrap();
    options
        .driver
        .insert(KafkaOptions::new().commit_interval(Duration::from_millis(10)));
    let mut subscription = subscribe(&kafka, &options).await;
    let deliveries = take(&mut *subscription, 5).await;
    let started = Instant::now();
    for (done, delivery) in deliveries.into_iter().enumerate() {
        let mut settlements = vec![delivery.ack()];
        subscription.try_settle(&mut settlements).unwrap().unwrap();
        committed(&kafka, stream.as_str(), &stream, done + 1).await;
    }
    // Far longer than all of them take, far shorter than the client's patience with one.
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    subscription.close().await.unwrap();
}
