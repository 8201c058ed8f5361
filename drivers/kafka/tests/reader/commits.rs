//! That positions are committed again and again, not only once.

use std::time::{Duration, Instant};

use streams_kafka::NewTopics;

use crate::support::{committed, committing_every, kafka, subscribe, take, topic, write};

/// One commit does not hold up the next.
#[tokio::test]
async fn positions_are_committed_at_every_interval() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "intervals", &NewTopics::new(1)).await;
    write(&kafka, &stream, 5, 1).await;
    let options = committing_every(Duration::from_millis(10), &stream);
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
