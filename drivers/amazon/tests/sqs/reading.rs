//! What readers do when something fails.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use streams_amazon::{NewQueues, SqsOptions};
use streams_core::{Delivery, Driver, ErrorKind, ReadOptions, Received, unix_millis};
use tokio::time::{Instant, timeout};

use crate::common::driver;
use crate::failing::Setup as _;
use crate::messages::{PATIENCE, once, stream, text};
use crate::proxy::Fault;
use crate::support::Setup;

const RECEIVE: &str = "ReceiveMessage";
const DELETE: &str = "DeleteMessageBatch";

#[tokio::test]
async fn requests_for_messages_that_fail_are_sent_again() {
    let setup = Setup::new("receive").await;
    setup.write(&setup.messages(5, 5)).await;
    setup.proxy.fail(
        RECEIVE,
        [
            Fault::Refuse(400, "RequestThrottled"),
            Fault::Refuse(429, "TooManyRequestsException"),
            Fault::Refuse(500, "InternalError"),
            Fault::Refuse(400, "OverLimit"),
            Fault::Reset,
        ],
    );
    // The client and the driver wait longer each time.
    let mut reading = setup.subscribe().await;
    assert_eq!(reading.take(5).await.len(), 5);
}

#[tokio::test]
async fn messages_whose_answer_was_lost_come_again() {
    let setup = Setup::new("lost").await;
    setup.write(&setup.messages(5, 5)).await;
    setup.proxy.fail(RECEIVE, [Fault::LoseAnswer]);
    let mut reading = setup.subscribe().await;
    let mut seen = BTreeSet::new();
    while seen.len() < 5 {
        for delivery in reading.next().await {
            assert!(delivery.attempt >= Some(2), "{:?}", delivery.attempt);
            seen.insert(text(&delivery.message));
        }
    }
}

#[tokio::test]
async fn a_request_for_messages_without_an_answer_is_given_up() {
    let setup = Setup::new("stall").await;
    setup.write(&setup.messages(1, 1)).await;
    setup.proxy.fail(RECEIVE, [Fault::Stall]);
    let options = SqsOptions::new().wait(Duration::from_secs(1));
    let mut reading = setup.subscribe_with(options).await;
    let began = Instant::now();
    let delivery = reading.one().await;
    // The wait and the timeout of requests.
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(reading.settle(vec![delivery.ack()]).await.is_empty());
}

#[tokio::test]
async fn acknowledgements_that_fail_are_left_to_be_tried_again() {
    let setup = Setup::new("delete").await;
    setup.write(&setup.messages(5, 5)).await;
    let mut reading = setup.subscribe().await;
    let deliveries = reading.take(5).await;
    let mut acks: Vec<_> = deliveries.into_iter().map(Delivery::ack).collect();
    setup.proxy.fail(
        DELETE,
        [Fault::FailEntries(&["1", "3"], "InternalError", false)],
    );
    let error = reading.0.settle(&mut acks).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(acks.len(), 2);
    assert!(reading.settle(acks).await.is_empty());
    drop(reading);
    assert_eq!(setup.drain().await, once([]));
}

#[tokio::test]
async fn a_receipt_handle_that_has_run_out_is_reported_lost() {
    let setup = Setup::new("handle").await;
    setup.write(&setup.messages(2, 2)).await;
    let mut reading = setup.subscribe().await;
    let mut deliveries = reading.take(2).await;
    // As SQS says it.
    setup.proxy.fail(
        DELETE,
        [Fault::FailEntries(&["0"], "ReceiptHandleIsInvalid", true)],
    );
    let second = deliveries.pop().unwrap();
    let first = deliveries.pop().unwrap();
    let id = first.token.id();
    assert_eq!(reading.settle(vec![first.ack(), second.ack()]).await, [id]);
    // It was not deleted, so it comes again.
    assert_eq!(reading.take(1).await.len(), 1);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_not_acknowledged() {
    let setup = Setup::new("lease").await;
    setup.write(&setup.messages(1, 1)).await;
    let mut reading = setup.subscribe().await;
    let delivery = reading.one().await;
    let lease = delivery.lease.unwrap();
    let mut other = setup.subscribe().await;
    let again = other.one().await;
    // Which begins when the answer is read, on a busy machine later than SQS has it.
    tokio::time::sleep_until(lease).await;
    let id = delivery.token.id();
    assert_eq!(reading.settle(vec![delivery.ack()]).await, [id]);
    assert!(setup.proxy.requests(DELETE).is_empty());
    assert_eq!(again.attempt, Some(2));
    assert!(other.settle(vec![again.ack()]).await.is_empty());
}

#[tokio::test]
async fn what_is_settled_after_its_queue_was_deleted_is_reported_lost() {
    let setup = Setup::new("settle-gone").await;
    setup.write(&setup.messages(2, 2)).await;
    let mut reading = setup.subscribe().await;
    let (first, second) = (reading.one().await, reading.one().await);
    let ids = [first.token.id(), second.token.id()];
    setup
        .client
        .delete_queue()
        .queue_url(&setup.url)
        .send()
        .await
        .unwrap();
    let report = reading
        .0
        .extend(&ids[1..], Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(report.lost, ids[1..]);
    let settlements = vec![first.ack(), second.token.retry(None)];
    assert_eq!(reading.settle(settlements).await, ids);
}

#[tokio::test]
async fn visibility_lost_while_handling_loses_nothing() {
    let setup = Setup::new("visibility").await;
    setup.write(&setup.messages(1, 1)).await;
    let mut reading = setup.subscribe().await;
    let delivery = reading.one().await;
    let facts = delivery.metadata.clone().unwrap();
    let handle = facts.get("sqs-message-receipt-handle", delivery.token.id());
    // Somebody makes it visible behind the reader's back, and another gets it.
    let change = setup
        .client
        .change_message_visibility()
        .queue_url(&setup.url);
    let change = change.receipt_handle(handle.unwrap()).visibility_timeout(0);
    change.send().await.unwrap();
    let mut other = setup.subscribe().await;
    let again = other.one().await;
    assert_eq!(again.message, delivery.message);
    // The late acknowledgement is reported, or has acknowledged it for both.
    let id = delivery.token.id();
    let lost = reading.settle(vec![delivery.ack()]).await;
    drop((other, again));
    let left = setup.drain().await;
    match lost[..] {
        [] => assert_eq!(left, once([])),
        [one] => assert_eq!((one, left), (id, once([0]))),
        _ => panic!("{lost:?}"),
    }
}

#[tokio::test]
async fn a_queue_deleted_while_it_is_read_ends_the_subscription() {
    let setup = Setup::new("gone").await;
    let mut reading = setup.subscribe().await;
    // The request that waits for messages may yet come back without any.
    assert!(
        reading
            .next_within(Duration::from_millis(200))
            .await
            .is_none()
    );
    setup
        .client
        .delete_queue()
        .queue_url(&setup.url)
        .send()
        .await
        .unwrap();
    let mut out = Vec::new();
    let received = timeout(
        PATIENCE,
        reading.0.receive(100.try_into().unwrap(), &mut out),
    );
    let error = received.await.expect("it goes on").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!error.is_retryable());
    let options = ReadOptions::new(&setup.stream).unwrap();
    let error = setup.sqs.reader().subscribe(&options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_queue_deleted_while_it_is_read_is_created_again_where_that_is_wanted() {
    let setup = Setup::new("again").await;
    let sqs = driver(&setup.proxy.endpoint())
        .create_queues(NewQueues::new().without_dead_letters())
        .wait(Duration::from_secs(1))
        // ElasticMQ never answers what waits for messages of a queue that is deleted.
        .request_timeout(Duration::from_secs(2))
        .build()
        .await
        .unwrap();
    let bus = streams_core::Bus::new(sqs);
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_stream(&setup.stream, move |message, _| {
        let sender = sender.clone();
        async move {
            sender.send(text(&message)).unwrap();
        }
    })
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let writer = bus.publisher();
    let messages = setup.messages(2, 2);
    writer.write(&messages[..1]).await.unwrap();
    assert_eq!(timeout(PATIENCE, seen.recv()).await.unwrap().unwrap(), "0");
    setup
        .client
        .delete_queue()
        .queue_url(&setup.url)
        .send()
        .await
        .unwrap();
    writer.write(&messages[1..]).await.unwrap();
    assert_eq!(timeout(PATIENCE, seen.recv()).await.unwrap().unwrap(), "1");
    bus.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn messages_that_wait_longer_than_sqs_delays_are_put_off() {
    let setup = Setup::new("hop").await;
    let due = SystemTime::now() + Duration::from_secs(3);
    let later = SystemTime::now() + Duration::from_secs(3600);
    // As they come when SQS has delayed them for as long as it does.
    for (body, time) in [("later", later), ("soon", due)] {
        let value = aws_sdk_sqs::types::MessageAttributeValue::builder();
        let value = value
            .data_type("String")
            .string_value(unix_millis(time).to_string());
        let send = setup
            .client
            .send_message()
            .queue_url(&setup.url)
            .message_body(body);
        let send = send.message_attributes("streams-due-time", value.build().unwrap());
        send.send().await.unwrap();
    }
    let mut reading = setup.subscribe().await;
    let delivery = reading.take(1).await.remove(0);
    assert!(SystemTime::now() >= due, "it came early");
    assert_eq!(text(&delivery.message), "soon");
    assert!(delivery.message.headers().is_empty());
    assert!(reading.settle(vec![delivery.ack()]).await.is_empty());
    // The other was sent once more, with the longest delay, and what came of it deleted.
    let sent = setup.proxy.requests("SendMessageBatch");
    let mut delays: Vec<_> = sent
        .iter()
        .flat_map(|request| request["Entries"].as_array().unwrap())
        .map(|entry| entry["DelaySeconds"].as_i64().unwrap())
        .collect();
    delays.sort_unstable();
    assert_eq!(delays.pop(), Some(900));
    assert!(
        delays.iter().all(|delay| (1..=3).contains(delay)),
        "{delays:?}"
    );
    assert!(reading.next_within(Duration::from_secs(3)).await.is_none());
}

#[tokio::test]
async fn whether_a_message_is_due_the_clock_of_sqs_says() {
    fn an_hour_later(answer: &mut Value) {
        for message in answer["Messages"].as_array_mut().unwrap() {
            let time = &mut message["Attributes"]["ApproximateFirstReceiveTimestamp"];
            let millis: i64 = time.as_str().unwrap().parse().unwrap();
            *time = json!((millis + 3_600_000).to_string());
        }
    }
    let setup = Setup::new("clock").await;
    let due = unix_millis(SystemTime::now() + Duration::from_secs(1800)).to_string();
    let value = aws_sdk_sqs::types::MessageAttributeValue::builder();
    let value = value.data_type("String").string_value(due).build().unwrap();
    let send = setup
        .client
        .send_message()
        .queue_url(&setup.url)
        .message_body("x");
    send.message_attributes("streams-due-time", value)
        .send()
        .await
        .unwrap();
    // This machine is an hour behind, so it seems.
    setup.proxy.fail(RECEIVE, [Fault::Edit(an_hour_later)]);
    let mut reading = setup.subscribe().await;
    let deliveries = reading.next_within(Duration::from_secs(5)).await.unwrap();
    assert_eq!(deliveries.len(), 1);
}

#[tokio::test]
async fn a_dropped_receive_has_taken_nothing() {
    let setup = Setup::new("drop").await;
    let options = SqsOptions::new().visibility_timeout(PATIENCE);
    let mut reading = setup.subscribe_with(options).await;
    assert!(
        reading
            .next_within(Duration::from_millis(50))
            .await
            .is_none()
    );
    setup.write(&setup.messages(20, 20)).await;
    let mut out = Vec::new();
    let mut seen = 0;
    while seen < 20 {
        let receive = reading.0.receive(3.try_into().unwrap(), &mut out);
        match timeout(Duration::from_millis(1), receive).await {
            Ok(received) => assert_eq!(received.unwrap(), Received::Deliveries),
            Err(_) => assert!(out.is_empty()),
        }
        seen += out.len();
        let mut acks = out.drain(..).map(Delivery::ack).collect();
        reading.0.settle(&mut acks).await.unwrap();
    }
    reading.0.close().await.unwrap();
    assert_eq!(setup.drain().await, once([]));
}

#[tokio::test]
async fn a_missing_queue_is_not_found() {
    let setup = Setup::new("none").await;
    let options = ReadOptions::new(stream("nowhere")).unwrap();
    let error = setup.sqs.reader().subscribe(&options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
