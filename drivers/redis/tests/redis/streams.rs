//! Streams that are added to a running subscription, and taken away.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Cmd;
use streams_core::{Bus, Context, Message, ReadOptions, SettleAction, StartFrom};
use streams_redis::{RedisOptions, StreamSet};

use crate::support::{GROUP, Test, handle, nothing_comes, settle, take, text, until};

/// A test whose streams are this one's and another's.
async fn two() -> (Test, Test, StreamSet) {
    let test = Test::shared().await;
    let other = Test::at(&test.url);
    (test, other, StreamSet::new())
}

fn with(options: ReadOptions, set: &StreamSet) -> ReadOptions {
    let mut options = options;
    options.driver.insert(RedisOptions::new().streams(set));
    options
}

#[tokio::test]
async fn a_stream_that_is_added_comes_once_however_often_it_is_added() {
    let (test, other, set) = two().await;
    for options in [test.options(), test.in_group()] {
        let set = set.clone();
        let mut reader = test.read(&with(options, &set)).await;
        set.add(&other.stream).unwrap();
        set.add(&other.stream).unwrap();
        set.add(&test.stream).unwrap();
        nothing_comes(&mut *reader).await;
        test.write(&[test.message("own")]).await;
        other.write(&[other.message("other")]).await;
        let mut data = handle(&mut *reader, 2).await;
        data.sort();
        assert_eq!(data, ["other", "own"]);
        nothing_comes(&mut *reader).await;
        reader.close().await.unwrap();
        for test in [&test, &other] {
            test.driver().delete_stream(&test.stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_added_stream_starts_where_the_subscription_does_unless_told_otherwise() {
    let (test, other, set) = two().await;
    let third = Test::at(&test.url);
    for test in [&other, &third] {
        test.write(&[test.message("before")]).await;
    }
    let latest = test.in_group().start_from(StartFrom::Latest);
    let mut reader = test.read(&with(latest, &set)).await;
    set.add(&other.stream).unwrap();
    set.add_from(&third.stream, StartFrom::Earliest).unwrap();
    let delivery = take(&mut *reader, 1).await;
    assert_eq!(delivery[0].message.stream().as_str(), third.stream);
    nothing_comes(&mut *reader).await;
}

#[tokio::test]
async fn what_was_read_of_a_stream_that_is_removed_goes_back_and_what_is_handled_is_settled() {
    let (test, other, set) = two().await;
    test.write(&test.messages(5)).await;
    let mut reader = test.read(&with(test.in_group(), &set)).await;
    let handled = take(&mut *reader, 2).await;
    set.remove(&test.stream).unwrap();
    set.add(&other.stream).unwrap();
    other.write(&[other.message("other")]).await;
    assert_eq!(handle(&mut *reader, 1).await, ["other"]);
    let report = settle(&mut *reader, handled, SettleAction::Ack).await;
    assert!(report.lost.is_empty());
    let mut next = test.member().await;
    assert_eq!(handle(&mut *next, 3).await, ["2", "3", "4"]);
    nothing_comes(&mut *next).await;
    // It may be read again.
    test.write(&[test.message("more")]).await;
    next.close().await.unwrap();
    set.add(&test.stream).unwrap();
    let more = take(&mut *reader, 1).await;
    assert_eq!(text(&more[0].message), "more");
}

#[tokio::test]
async fn a_stream_that_is_removed_is_left_when_all_of_it_is_settled() {
    let (test, other, set) = two().await;
    let mut reader = test.read(&with(test.in_group(), &set)).await;
    for round in 0..3 {
        set.add(&other.stream).unwrap();
        other.write(&[other.message(&round.to_string())]).await;
        let held = take(&mut *reader, 1).await;
        set.remove(&other.stream).unwrap();
        nothing_comes(&mut *reader).await;
        let mut consumers = Cmd::new();
        consumers
            .arg("XINFO")
            .arg("CONSUMERS")
            .arg(other.key())
            .arg(GROUP);
        let members: Vec<redis::Value> = other.ask(&consumers).await;
        assert_eq!(members.len(), 1, "what is handled is still its own");
        let report = settle(&mut *reader, held, SettleAction::Ack).await;
        assert!(report.lost.is_empty());
        // It goes by and by, while the subscription runs.
        nothing_comes(&mut *reader).await;
        let members: Vec<redis::Value> = other.ask(&consumers).await;
        assert!(members.is_empty(), "{members:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_reads_what_is_added() {
    let (test, other, set) = two().await;
    let bus = Bus::builder(test.driver()).build().unwrap();
    let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
    let into = seen.clone();
    bus.subscribe_stream(&test.stream, move |message: Message, _: Context| {
        into.lock().unwrap().insert(message.stream().to_string());
        async {}
    })
    .group("audit")
    .option(RedisOptions::new().streams(&set))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    set.add(&other.stream).unwrap();
    for test in [&test, &other] {
        bus.publisher().write(&test.messages(3)).await.unwrap();
    }
    until("both are read", async || seen.lock().unwrap().len() == 2).await;
    let report = bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(report.acknowledged(), 6);
}
