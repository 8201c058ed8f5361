//! What writers do when something fails.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use streams_core::{Driver, ErrorKind, Message, ReadOptions, StreamName, WriteError, dead_letter};

use crate::proxy::Fault;
use crate::support::{Reading, Setup, once, stream};

const PUBLISH: &str = "PublishBatch";

fn kinds(error: &WriteError) -> HashSet<ErrorKind> {
    let kinds = error.failures().iter().map(|(_, error)| error.kind());
    kinds.collect()
}

#[tokio::test]
async fn of_a_batch_exactly_those_that_failed_are_named() {
    let setup = Setup::new("partial").await;
    let messages = setup.messages(25, 25);
    setup.proxy.fail(
        PUBLISH,
        [Fault::FailEntries(&["1", "4"], "InternalError", false)],
    );
    let writer = setup.sns.writer();
    let error = writer.write(&messages).await.unwrap_err();
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed.len(), 2, "{error}");
    assert_eq!(failed[1] - failed[0], 3);
    assert!(error.is_retryable());
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    writer.write(&again).await.unwrap();
    assert_eq!(setup.drain().await, once(0..25));
}

#[tokio::test]
async fn throttling_errors_of_the_server_and_resets_pass() {
    let setup = Setup::new("passing").await;
    for fault in [
        Fault::Refuse(400, "ThrottledException"),
        Fault::Refuse(429, "TooManyRequestsException"),
        Fault::Refuse(500, "InternalError"),
        Fault::Refuse(503, "ServiceUnavailable"),
        Fault::Reset,
        Fault::Stall,
    ] {
        let before = setup.proxy.requests(PUBLISH).len();
        setup.proxy.fail(PUBLISH, [fault.clone()]);
        setup.write(&setup.messages(3, 3)).await;
        assert_eq!(setup.proxy.requests(PUBLISH).len(), before + 2, "{fault:?}");
    }
    let each_six_times = (0..3).map(|n| (n.to_string(), 6)).collect();
    assert_eq!(setup.drain().await, each_six_times);
}

#[tokio::test]
async fn a_server_that_stays_away_fails_all_and_says_that_trying_again_may_help() {
    let setup = Setup::new("away").await;
    let messages = setup.messages(12, 12);
    for (fault, kind) in [
        (Fault::Refuse(429, "Throttling"), ErrorKind::Unavailable),
        (Fault::Refuse(500, "InternalError"), ErrorKind::Unavailable),
        (Fault::Reset, ErrorKind::Unavailable),
        (Fault::Stall, ErrorKind::Timeout),
    ] {
        // Three attempts for each of two batches.
        setup.proxy.fail(PUBLISH, vec![fault.clone(); 6]);
        let error = setup.sns.writer().write(&messages).await.unwrap_err();
        assert!(error.indices().eq(0..12), "{error}");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(kinds(&error), [kind].into(), "{fault:?}: {error:?}");
    }
    setup.write(&messages).await;
    assert_eq!(setup.drain().await, once(0..12));
}

#[tokio::test]
async fn in_a_fifo_topic_nothing_overtakes_what_failed() {
    let setup = Setup::fifo("overtake").await;
    setup.proxy.fail(
        PUBLISH,
        [Fault::FailEntries(&["9"], "InternalError", false)],
    );
    let messages = setup.messages(25, 2);
    let writer = setup.sns.writer();
    let error = writer.write(&messages).await.unwrap_err();
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed, [9, 11, 13, 15, 17, 19, 21, 23]);
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    writer.write(&again).await.unwrap();
    let options = ReadOptions::new(&setup.stream).unwrap();
    let mut reading = Reading::of(&setup.sns, &options).await;
    let mut seen: [Vec<usize>; 2] = Default::default();
    while seen[0].len() + seen[1].len() < 25 {
        let number: usize = crate::support::text(&reading.one().await).parse().unwrap();
        seen[number % 2].push(number);
    }
    assert!(seen.iter().all(|key| key.is_sorted()), "{seen:?}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_index_before_anything_is_sent() {
    let setup = Setup::new("large").await;
    let mut messages = setup.messages(5, 5);
    let plain = || Message::builder(&setup.stream);
    // By its data; by its headers.
    messages[1] = plain().data(vec![0xff; (180 << 10) + 1]).build().unwrap();
    let header = "v".repeat(256 << 10);
    messages[3] = plain().data("x").header("h", header).build().unwrap();
    let error = setup.sns.writer().write(&messages).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(kinds(&error), [ErrorKind::TooLarge].into());
    assert_eq!(setup.drain().await, once([0, 2, 4]));
}

#[tokio::test]
async fn large_messages_go_in_several_requests() {
    let setup = Setup::new("bytes").await;
    let large = |n: usize| {
        let mut data = n.to_string().into_bytes();
        data.resize(100 << 10, b' ');
        Message::builder(&setup.stream).data(data).build().unwrap()
    };
    let messages: Vec<_> = (0..5).map(large).collect();
    setup.write(&messages).await;
    assert_eq!(setup.proxy.requests(PUBLISH).len(), 3);
    assert_eq!(setup.drain().await.len(), 5);
}

#[tokio::test]
async fn nothing_is_delayed() {
    for setup in [Setup::new("delay").await, Setup::fifo("delay").await] {
        let due = SystemTime::now() + Duration::from_secs(60);
        let messages = setup.messages(2, 1);
        let written = setup.sns.writer().write_at(&messages, due).await;
        let error = written.unwrap_err();
        assert_eq!(kinds(&error), [ErrorKind::Unsupported].into());
        assert!(error.indices().eq(0..2));
    }
}

#[tokio::test]
async fn a_topic_that_is_missing_or_deleted_is_not_found_or_created_again() {
    let setup = Setup::new("gone").await;
    let again = setup.sns.clone();
    again.writer().write(&setup.messages(1, 1)).await.unwrap();
    again.delete_topic(&setup.stream).await.unwrap();
    again.writer().write(&setup.messages(1, 1)).await.unwrap();
    assert_eq!(setup.proxy.requests("CreateTopic").len(), 2);

    let plain = crate::support::driver(&setup.proxy.endpoint()).await;
    let plain = plain.queues(crate::support::queues().await);
    let plain = plain.build().await.unwrap();
    let mut messages = setup.messages(3, 3);
    let nowhere = messages[1].to_builder().stream(stream("nowhere"));
    messages[1] = nowhere.build().unwrap();
    let error = plain.writer().write(&messages).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    assert_eq!(kinds(&error), [ErrorKind::NotFound].into());
    plain.delete_topic(&setup.stream).await.unwrap();
    let error = plain.writer().write(&setup.messages(2, 2)).await;
    assert_eq!(kinds(&error.unwrap_err()), [ErrorKind::NotFound].into());
}

#[tokio::test]
async fn a_clock_that_is_wrong_and_a_name_that_cannot_be_are_said() {
    let setup = Setup::new("skew").await;
    let skewed = Fault::Refuse(403, "RequestTimeTooSkewed");
    setup.proxy.fail(PUBLISH, vec![skewed; 3]);
    let writer = setup.sns.writer();
    let error = writer.write(&setup.messages(1, 1)).await.unwrap_err();
    let error = &error.failures()[0].1;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("clock"), "{error}");
    assert_eq!(error.failed_driver(), Some("sns"));

    let odd = Message::builder(StreamName::new("a/b").unwrap()).data("x");
    let error = writer.write(&[odd.build().unwrap()]).await.unwrap_err();
    assert_eq!(kinds(&error), [ErrorKind::InvalidMessage].into());
}

#[tokio::test]
async fn dead_letters_are_kept_though_nobody_reads_them_yet() {
    let setup = Setup::new("dead").await;
    let dead = setup.stream.dead_letters().unwrap();
    let letter = Message::builder(&dead)
        .header(dead_letter::headers::STREAM, setup.stream.as_str())
        .data("x")
        .build()
        .unwrap();
    setup.write(std::slice::from_ref(&letter)).await;
    let options = ReadOptions::new(&dead).unwrap();
    assert_eq!(Reading::of(&setup.sns, &options).await.one().await, letter);
}

#[tokio::test]
async fn connecting_says_whether_aws_answers() {
    let setup = Setup::new("connect").await;
    setup.sns.connect().await.unwrap();
    let denied = Fault::Refuse(403, "AuthorizationError");
    setup.proxy.fail("ListTopics", [denied]);
    setup.sns.connect().await.unwrap();
    let refused = Fault::Refuse(403, "InvalidClientTokenId");
    for (faults, kind) in [
        (vec![refused], ErrorKind::Permission),
        (vec![Fault::Reset; 3], ErrorKind::Unavailable),
    ] {
        setup.proxy.fail("ListTopics", faults);
        let error = setup.sns.connect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}
