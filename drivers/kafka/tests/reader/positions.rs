//! Where subscriptions begin and what they commit.

use std::time::Duration;

use streams_core::{ReadOptions, Received, StartFrom};
use streams_kafka::{KafkaControl, KafkaOptions, NewTopics, SeekTo};

use crate::support::{
    Arrived, MANY, committing_every, kafka, next, number, shut_down, subscribe, take, topic, until,
    write,
};

/// With the client's own `auto.offset.reset=latest`, what was written between the start of a group
/// and its first commit is skipped when it crashes before that.
#[tokio::test]
async fn a_group_that_starts_at_the_end_keeps_its_start_through_a_crash() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "latest", &NewTopics::new(2)).await;
    let group = stream.as_str();
    write(&kafka, &stream, 10, 10).await;
    let options = ReadOptions::new(&stream)
        .unwrap()
        .group(group)
        .unwrap()
        .start_from(StartFrom::Latest);
    let first = subscribe(&kafka, &options).await;
    let start = kafka.committed(group, &stream).await.unwrap();
    assert_eq!(start.iter().flatten().sum::<u64>(), 10);
    write(&kafka, &stream, 10, 10).await;
    drop(first); // a crash: nothing was acknowledged, or even received
    let mut second = subscribe(&kafka, &options).await;
    let deliveries = take(&mut *second, 10).await;
    assert!(deliveries.iter().all(|d| {
        let id = d.token.id();
        Some(id.sequence) >= start[id.partition as usize]
    }));
    second.close().await.unwrap();
}

#[tokio::test]
async fn positions_past_either_end_are_the_nearest_there_is() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "past", &NewTopics::new(1)).await;
    write(&kafka, &stream, 5, 1).await;
    let at = |position: &str| {
        ReadOptions::new(&stream)
            .unwrap()
            .start_from(StartFrom::Position(position.to_owned()))
    };
    let mut subscription = subscribe(&kafka, &at("3")).await;
    let numbers: Vec<_> = take(&mut *subscription, 2)
        .await
        .iter()
        .map(|d| number(&d.message))
        .collect();
    assert_eq!(numbers, [3, 4]);
    subscription.close().await.unwrap();
    let mut subscription = subscribe(&kafka, &at("1000")).await;
    write(&kafka, &stream, 1, 1).await;
    assert_eq!(next(&mut *subscription).await[0].token.id().sequence, 5);
    subscription.close().await.unwrap();
}

#[tokio::test]
async fn what_is_acknowledged_is_committed_within_the_interval() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "interval", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let options = committing_every(Duration::from_millis(50), &stream);
    let mut subscription = subscribe(&kafka, &options).await;
    let mut deliveries = take(&mut *subscription, 10).await;
    let mut settlements = vec![deliveries.remove(6).ack()];
    let report = subscription.try_settle(&mut settlements).unwrap().unwrap();
    assert!(report.lost.is_empty() && settlements.is_empty());
    for _ in 0..200 {
        if kafka.committed(stream.as_str(), &stream).await.unwrap() == [Some(7)] {
            subscription.close().await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the position was not committed");
}

#[tokio::test]
async fn with_no_interval_settling_waits_for_the_commit() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "no-interval", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let options = committing_every(Duration::ZERO, &stream);
    let mut subscription = subscribe(&kafka, &options).await;
    let mut deliveries = take(&mut *subscription, 10).await;
    let mut settlements = vec![deliveries.remove(6).ack()];
    assert!(subscription.try_settle(&mut settlements).is_none());
    subscription.settle(&mut settlements).await.unwrap();
    assert_eq!(
        kafka.committed(stream.as_str(), &stream).await.unwrap(),
        [Some(7)]
    );
    subscription.close().await.unwrap();
}

#[tokio::test]
async fn what_was_settled_is_committed_at_close() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "close", &NewTopics::new(1)).await;
    write(&kafka, &stream, 10, 1).await;
    let options = committing_every(Duration::from_secs(3600), &stream);
    let mut subscription = subscribe(&kafka, &options).await;
    let mut deliveries = take(&mut *subscription, 10).await;
    let mut settlements = vec![deliveries.remove(3).ack()];
    subscription.try_settle(&mut settlements).unwrap().unwrap();
    subscription.close().await.unwrap();
    assert_eq!(
        kafka.committed(stream.as_str(), &stream).await.unwrap(),
        [Some(4)]
    );
    // And it is closed for good.
    let error = subscription
        .receive(MANY, &mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), streams_core::ErrorKind::Closed);
    subscription.close().await.unwrap();
}

#[tokio::test]
async fn a_running_subscription_seeks_and_pauses() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "seek", &NewTopics::new(2)).await;
    write(&kafka, &stream, 100, 10).await;
    let bus = streams_core::Bus::new(kafka.clone());
    let (arrived, control) = (Arrived::default(), KafkaControl::new());
    let handler = arrived.clone();
    bus.subscribe_stream(&stream, move |message, _| {
        let arrived = handler.clone();
        async move { arrived.add(&message) }
    })
    .group(stream.as_str())
    .option(
        KafkaOptions::new()
            .control(&control)
            .statistics_interval(Duration::from_millis(100)),
    )
    .register()
    .unwrap();
    bus.start().await.unwrap();
    arrived.wait(100).await;
    until("the statistics say that all is done", || {
        let progress = control.progress();
        progress.len() == 2 && progress.iter().all(|p| p.lag() == Some(0))
    })
    .await;
    let first = control.progress()[0].high_watermark.unwrap();

    // All of one partition again.
    control.seek(0, SeekTo::Beginning).await.unwrap();
    let again = 100 + usize::try_from(first).unwrap();
    until("the partition was read again", || {
        arrived.all().len() >= again
    })
    .await;
    // The end, and an offset before it.
    control.seek(0, SeekTo::End).await.unwrap();
    control.seek(0, SeekTo::Offset(first - 1)).await.unwrap();
    until("the last message was read again", || {
        arrived.all().len() > again
    })
    .await;
    assert_eq!(arrived.all().len(), again + 1);

    // What is paused stands still while the other goes on.
    control.pause([0]).await.unwrap();
    let end = |partition: usize| control.progress()[partition].acknowledged.unwrap_or(0);
    let before = end(0);
    let other = end(1);
    write(&kafka, &stream, 100, 10).await;
    until("the other partition is read on", || end(1) > other).await;
    assert_eq!(end(0), before);
    control.resume([0]).await.unwrap();
    until("the paused one is read on", || end(0) > before).await;

    let error = control.seek(7, SeekTo::End).await.unwrap_err();
    assert_eq!(error.kind(), streams_core::ErrorKind::NotFound);
    shut_down(&bus).await;
    assert!(control.seek(0, SeekTo::End).await.is_err());
}

#[tokio::test]
async fn a_bounded_read_ends_with_what_was_there() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "bounded", &NewTopics::new(3)).await;
    write(&kafka, &stream, 50, 2).await; // so that a partition may be empty
    let mut options = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Earliest);
    options.driver.insert(KafkaOptions::new().until_end());
    let mut subscription = subscribe(&kafka, &options).await;
    let mut out = Vec::new();
    while subscription.receive(MANY, &mut out).await.unwrap() != Received::End {}
    assert_eq!(out.len(), 50);
    subscription.close().await.unwrap();
}

/// Partitions have no leader for a moment after the topic is there.
#[tokio::test]
async fn a_topic_just_created_can_be_read() {
    let kafka = kafka().await;
    for _ in 0..5 {
        let stream = topic(&kafka, "fresh", &NewTopics::new(6)).await;
        for partition in 0..6 {
            assert_eq!(kafka.watermarks(&stream, partition).await.unwrap(), (0, 0));
        }
        let stream = topic(&kafka, "fresh", &NewTopics::new(6)).await;
        let mut options = ReadOptions::new(&stream).unwrap();
        options.driver.insert(KafkaOptions::new().until_end());
        let mut subscription = subscribe(&kafka, &options.start_from(StartFrom::Earliest)).await;
        loop {
            let mut out = Vec::new();
            match subscription.receive(MANY, &mut out).await.unwrap() {
                Received::End => break,
                received => assert!(out.is_empty(), "{received:?}"),
            }
        }
    }
}
