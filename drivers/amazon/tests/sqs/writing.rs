//! What writers do when something fails.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use streams_amazon::NewQueues;
use streams_core::dead_letter::{headers, redrive};
use streams_core::{Driver, ErrorKind, Key, Message, ReadOptions, StreamName};

use crate::failing::{Setup as _, kinds, tests_of};
use crate::messages::{Reading, once, stream};
use crate::proxy::Fault;
use crate::support::Setup;

const SEND: &str = "SendMessageBatch";

tests_of! {
    Setup:
    of_a_batch_exactly_those_that_failed_are_named,
    throttling_errors_of_the_server_and_resets_pass,
    a_server_that_stays_away_fails_all_and_says_that_trying_again_may_help,
    with_fifo_nothing_overtakes_what_failed,
    what_is_too_large_is_refused_by_index_before_anything_is_sent,
    large_messages_go_in_several_requests,
    a_clock_that_is_wrong_is_said,
    a_name_that_cannot_be_is_refused,
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
        let mut reading = Reading::of(&setup.sqs, &options).await;
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
async fn a_name_no_queue_can_have_is_asked_for_once() {
    let setup = Setup::new("name").await;
    let message = Message::builder(StreamName::new("a/b").unwrap()).data("x");
    let error = setup.refused(&[message.build().unwrap()]).await;
    assert_eq!(kinds(&error), [ErrorKind::InvalidMessage].into());
    let asked = setup.proxy.requests("GetQueueUrl").len();
    assert_eq!(asked, 1, "only to create it");
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
