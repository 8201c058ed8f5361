//! What writers do when something fails.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use streams_amazon::NewQueues;
use streams_core::dead_letter::{headers, redrive};
use streams_core::{Driver, ErrorKind, Key, Message, ReadOptions, StreamName, WriteError};

use crate::proxy::Fault;
use crate::support::{Reading, Setup, once, stream};

const SEND: &str = "SendMessageBatch";

fn kinds(error: &WriteError) -> HashSet<ErrorKind> {
    error
        .failures()
        .iter()
        .map(|(_, error)| error.kind())
        .collect()
}

#[tokio::test]
async fn of_a_batch_exactly_those_that_failed_are_named() {
    let setup = Setup::new("partial").await;
    let messages = setup.messages(25, 25);
    setup.proxy.fail(
        SEND,
        [Fault::FailEntries(&["1", "4"], "InternalError", false)],
    );
    let writer = setup.sqs.writer();
    let error = writer.write(&messages).await.unwrap_err();
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed.len(), 2, "{error}");
    assert_eq!(failed[1] - failed[0], 3);
    assert!(error.is_retryable());
    // Written again, only those: everything is there once.
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    writer.write(&again).await.unwrap();
    assert_eq!(setup.drain().await, once(0..25));
}

#[tokio::test]
async fn an_entry_that_sqs_blames_on_the_sender_is_not_worth_trying_again() {
    let setup = Setup::new("blame").await;
    setup.proxy.fail(
        SEND,
        [Fault::FailEntries(&["0"], "InvalidMessageContents", true)],
    );
    let error = setup
        .sqs
        .writer()
        .write(&setup.messages(2, 2))
        .await
        .unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [0]);
    assert!(!error.is_retryable());
    assert_eq!(setup.drain().await, once([1]));
}

#[tokio::test]
async fn throttling_errors_of_the_server_and_resets_pass() {
    let setup = Setup::new("passing").await;
    for fault in [
        Fault::Refuse(400, "RequestThrottled"),
        Fault::Refuse(429, "TooManyRequestsException"),
        Fault::Refuse(500, "InternalError"),
        Fault::Refuse(503, "ServiceUnavailable"),
        Fault::Reset,
        Fault::Stall,
    ] {
        let before = setup.proxy.requests(SEND).len();
        setup.proxy.fail(SEND, [fault.clone()]);
        setup.write(&setup.messages(3, 3)).await;
        assert_eq!(setup.proxy.requests(SEND).len(), before + 2, "{fault:?}");
    }
    let each_six_times = (0..3).map(|n| (n.to_string(), 6)).collect();
    assert_eq!(setup.drain().await, each_six_times);
}

#[tokio::test]
async fn a_server_that_stays_away_fails_all_and_says_that_trying_again_may_help() {
    let setup = Setup::new("away").await;
    let messages = setup.messages(12, 12);
    for (fault, kind) in [
        (
            Fault::Refuse(400, "RequestThrottled"),
            ErrorKind::Unavailable,
        ),
        (Fault::Refuse(500, "InternalError"), ErrorKind::Unavailable),
        (Fault::Reset, ErrorKind::Unavailable),
        (Fault::Stall, ErrorKind::Timeout),
    ] {
        // Three attempts for each of two batches.
        setup.proxy.fail(SEND, vec![fault.clone(); 6]);
        let error = setup.sqs.writer().write(&messages).await.unwrap_err();
        assert!(error.indices().eq(0..12), "{error}");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(kinds(&error), [kind].into(), "{fault:?}: {error:?}");
    }
    setup.write(&messages).await;
    assert_eq!(setup.drain().await, once(0..12));
}

#[tokio::test]
async fn a_lost_answer_makes_duplicates_but_not_in_a_fifo_queue() {
    for (setup, times) in [
        (Setup::new("lost-answer").await, 2),
        (Setup::fifo("lost-answer").await, 1),
    ] {
        setup.proxy.fail(SEND, [Fault::LoseAnswer]);
        setup.write(&setup.messages(5, 5)).await;
        let expected = (0..5).map(|n| (n.to_string(), times)).collect();
        assert_eq!(setup.drain().await, expected, "{}", setup.stream);
    }
}

#[tokio::test]
async fn in_a_fifo_queue_nothing_overtakes_what_failed() {
    let setup = Setup::fifo("overtake").await;
    // Message 3 is of key 1, as are 5, 7, ...; the next batches hold back theirs.
    setup
        .proxy
        .fail(SEND, [Fault::FailEntries(&["9"], "InternalError", false)]);
    let messages = setup.messages(25, 2);
    let writer = setup.sqs.writer();
    let error = writer.write(&messages).await.unwrap_err();
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed, [9, 11, 13, 15, 17, 19, 21, 23]);
    assert!(error.is_retryable());
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    writer.write(&again).await.unwrap();

    let mut reading = setup.subscribe().await;
    let mut seen: [Vec<usize>; 2] = Default::default();
    while seen[0].len() + seen[1].len() < 25 {
        for delivery in reading.next().await {
            let number: usize = crate::support::text(&delivery.message).parse().unwrap();
            seen[number % 2].push(number);
            assert!(reading.settle(vec![delivery.ack()]).await.is_empty());
        }
    }
    let in_order = |keys: &Vec<usize>| keys.is_sorted();
    assert!(seen.iter().all(in_order), "{seen:?}");
}

#[tokio::test]
async fn a_fifo_queue_takes_a_message_of_one_id_once() {
    let setup = Setup::fifo("same-id").await;
    let messages = setup.messages(3, 1);
    setup.write(&messages).await;
    setup.write(&messages).await;
    assert_eq!(setup.drain().await, once(0..3));
}

/// With ids alone each step but the first would be dropped: all are within five minutes.
#[tokio::test]
async fn a_dead_letter_of_a_fifo_queue_is_brought_back_and_given_up_again() {
    let setup = Setup::fifo("redrive").await;
    let dead = setup.stream.dead_letters().unwrap();
    let plain = NewQueues::new().without_dead_letters();
    setup.sqs.create_queue(&dead, &plain).await.unwrap();
    let message = setup.messages(1, 1).remove(0);
    let give_up = |message: &Message, millis: i64| {
        let failed = millis.to_string();
        let letter = message.to_builder().stream(&dead);
        letter
            .header(headers::STREAM, setup.stream.as_str())
            .header(headers::LAST_FAILURE, failed)
            .build()
            .unwrap()
    };
    let mut back = message.clone();
    setup.write(std::slice::from_ref(&back)).await;
    for failed in [17, 99] {
        assert_eq!(setup.drain().await, once([0]));
        let letter = give_up(&back, failed);
        setup.write(std::slice::from_ref(&letter)).await;
        let options = ReadOptions::new(&dead).unwrap();
        let mut reading = Reading(setup.sqs.reader().subscribe(&options).await.unwrap());
        let delivery = reading.one().await;
        back = redrive(&delivery.message).unwrap();
        // Whoever does it and dies before the acknowledgement does it again.
        setup.write(std::slice::from_ref(&back)).await;
        setup.write(std::slice::from_ref(&back)).await;
        assert!(reading.settle(vec![delivery.ack()]).await.is_empty());
        reading.0.close().await.unwrap();
    }
    assert_eq!(back.id(), message.id());
    assert_eq!(setup.drain().await, once([0]));
}

#[tokio::test]
async fn what_the_answer_does_not_name_is_not_written_for_sure() {
    fn forget(answer: &mut Value) {
        answer["Successful"].as_array_mut().unwrap().pop();
    }
    let setup = Setup::new("forgotten").await;
    setup.proxy.fail(SEND, [Fault::Edit(forget)]);
    let messages = setup.messages(3, 3);
    let error = setup.sqs.writer().write(&messages).await.unwrap_err();
    assert_eq!(error.failures().len(), 1);
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_index_before_anything_is_sent() {
    let setup = Setup::new("large").await;
    let mut messages = setup.messages(5, 5);
    let large = |build: fn(streams_core::MessageBuilder) -> streams_core::MessageBuilder| {
        build(Message::builder(&setup.stream)).build().unwrap()
    };
    // By its data; by its headers.
    messages[1] = large(|m| m.data(vec![0xff; (180 << 10) + 1]));
    messages[3] = large(|m| m.data("x").header("h", "v".repeat(256 << 10)));
    let error = setup.sqs.writer().write(&messages).await.unwrap_err();
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
    assert_eq!(setup.proxy.requests(SEND).len(), 3);
    assert_eq!(setup.drain().await.len(), 5);
}

#[tokio::test]
async fn an_empty_key_and_header_names_that_sqs_refuses_arrive() {
    for setup in [Setup::new("odd").await, Setup::fifo("odd").await] {
        let message = Message::builder(&setup.stream)
            .key("")
            .header("AWS.trace", "1")
            .header("with space", "2")
            .header("", "")
            .data("x");
        assert!(message.build().is_err());
        let message = Message::builder(&setup.stream)
            .key("")
            .header("AWS.trace", "1")
            .header("with space", "2")
            .header(".dot", "3")
            .header("empty", "")
            .data("x")
            .build()
            .unwrap();
        setup.write(std::slice::from_ref(&message)).await;
        let mut reading = setup.subscribe().await;
        let delivery = reading.take(1).await.remove(0);
        assert_eq!(delivery.message, message);
        assert_eq!(delivery.message.key(), Some(&Key::from("")));
        reading.settle(vec![delivery.ack()]).await;
    }
}

#[tokio::test]
async fn a_missing_queue_fails_its_messages_alone() {
    let setup = Setup::new("missing").await;
    let mut messages = setup.messages(3, 3);
    messages[1] = messages[1]
        .to_builder()
        .stream(stream("nowhere"))
        .build()
        .unwrap();
    let error = setup.sqs.writer().write(&messages).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    assert_eq!(kinds(&error), [ErrorKind::NotFound].into());
    assert_eq!(setup.drain().await, once([0, 2]));
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_no_longer_found() {
    let setup = Setup::new("deleted").await;
    let writer = setup.sqs.writer();
    writer.write(&setup.messages(1, 1)).await.unwrap();
    setup
        .client
        .delete_queue()
        .queue_url(&setup.url)
        .send()
        .await
        .unwrap();
    let error = writer.write(&setup.messages(2, 1)).await.unwrap_err();
    assert_eq!(kinds(&error), [ErrorKind::NotFound].into());
    assert!(error.indices().eq(0..2));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_said() {
    let setup = Setup::new("skew").await;
    setup
        .proxy
        .fail(SEND, vec![Fault::Refuse(403, "RequestTimeTooSkewed"); 3]);
    let error = setup
        .sqs
        .writer()
        .write(&setup.messages(1, 1))
        .await
        .unwrap_err();
    let error = &error.failures()[0].1;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn a_longer_delay_carries_its_time_and_fifo_queues_have_none() {
    let setup = Setup::new("delay").await;
    let due = SystemTime::now() + Duration::from_secs(3600);
    let writer = setup.sqs.writer();
    writer.write_at(&setup.messages(1, 1), due).await.unwrap();
    let sent = &setup.proxy.requests(SEND)[0]["Entries"][0];
    assert_eq!(sent["DelaySeconds"], 900);
    let carried = &sent["MessageAttributes"]["streams-due-time"]["StringValue"];
    assert_eq!(carried, &streams_core::unix_millis(due).to_string());

    let fifo = Setup::fifo("delay").await;
    let error = fifo
        .sqs
        .writer()
        .write_at(&fifo.messages(1, 1), due)
        .await
        .unwrap_err();
    assert_eq!(kinds(&error), [ErrorKind::Unsupported].into());
}

#[tokio::test]
async fn a_name_no_queue_can_have_is_refused() {
    let setup = Setup::new("name").await;
    let message = Message::builder(StreamName::new("a/b").unwrap())
        .data("x")
        .build()
        .unwrap();
    let error = setup.sqs.writer().write(&[message]).await.unwrap_err();
    assert_eq!(kinds(&error), [ErrorKind::InvalidMessage].into());
    assert_eq!(
        setup.proxy.requests("GetQueueUrl").len(),
        1,
        "only to create it"
    );
}
