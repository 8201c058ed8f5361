//! Queues that are created and deleted.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use serde_json::Value;
use streams_amazon::NewQueues;
use streams_core::{Driver, ErrorKind, Message, ReadOptions, StreamName};

use crate::common::{client, driver};
use crate::messages::{Reading, stream};
use crate::support::{elasticmq, moto};

async fn attributes(endpoint: &str, queue: &str) -> HashMap<Name, String> {
    let client = client(endpoint);
    let url = client
        .get_queue_url()
        .queue_name(queue)
        .send()
        .await
        .unwrap()
        .queue_url;
    let attributes = client.get_queue_attributes().queue_url(url.unwrap());
    let attributes = attributes.attribute_names(Name::All).send().await.unwrap();
    attributes.attributes.unwrap()
}

#[tokio::test]
async fn queues_are_created_with_dead_letters_behind_them() {
    for endpoint in [elasticmq().await, moto().await] {
        for fifo in [false, true] {
            let stream = stream("orders.created");
            let settings = NewQueues::new()
                .max_receives(7)
                .attribute("MessageRetentionPeriod", "86400");
            let sqs = driver(&endpoint)
                .fifo(fifo)
                .create_queues(settings.clone())
                .build()
                .await
                .unwrap();
            let message = Message::builder(&stream).data("x").build().unwrap();
            sqs.writer().write(&[message]).await.unwrap();
            assert!(
                !sqs.create_queue(&stream, &settings).await.unwrap(),
                "it is there"
            );

            let (plain, end) = (
                stream.as_str().replace('.', "-"),
                if fifo { ".fifo" } else { "" },
            );
            let own = attributes(&endpoint, &format!("{plain}{end}")).await;
            let dead = attributes(&endpoint, &format!("{plain}-dlq{end}")).await;
            let policy: Value = serde_json::from_str(&own[&Name::RedrivePolicy]).unwrap();
            assert_eq!(
                policy["deadLetterTargetArn"],
                dead[&Name::QueueArn].as_str()
            );
            let receives = policy["maxReceiveCount"].to_string();
            assert_eq!(receives.trim_matches('"'), "7");
            assert!(!dead.contains_key(&Name::RedrivePolicy));
            if fifo {
                assert_eq!(own[&Name::FifoQueue], "true");
                assert_eq!(dead[&Name::FifoQueue], "true");
            }

            assert!(sqs.delete_queue(&stream).await.unwrap());
            assert!(!sqs.delete_queue(&stream).await.unwrap());
            assert!(
                sqs.delete_queue(stream.dead_letters().unwrap())
                    .await
                    .unwrap()
            );
        }
    }
}

#[tokio::test]
async fn what_is_never_acknowledged_goes_to_the_dead_letters() {
    for endpoint in [elasticmq().await, moto().await] {
        let stream = stream("poison");
        let sqs = driver(&endpoint)
            .create_queues(NewQueues::new().max_receives(2))
            .visibility_timeout(Duration::from_secs(1))
            .wait(Duration::from_secs(1))
            .build()
            .await
            .unwrap();
        let message = Message::builder(&stream)
            .key("k")
            .data("x")
            .build()
            .unwrap();
        sqs.writer()
            .write(std::slice::from_ref(&message))
            .await
            .unwrap();
        let subscribe = async |stream: &StreamName| {
            let options = ReadOptions::new(stream).unwrap();
            Reading::of(&sqs, &options).await
        };
        let mut reading = subscribe(&stream).await;
        for attempt in 1..=2 {
            let delivery = reading.take(1).await.remove(0);
            assert_eq!(delivery.attempt, Some(attempt));
            reading.settle(vec![delivery.token.retry(None)]).await;
        }
        // It is moved when it would be received once more.
        assert!(reading.next_within(Duration::from_secs(2)).await.is_none());
        let letter = subscribe(&stream.dead_letters().unwrap())
            .await
            .take(1)
            .await
            .remove(0);
        assert_eq!(letter.message.id(), message.id());
        assert_eq!(letter.message.key(), message.key());
    }
}

#[tokio::test]
async fn a_queue_that_is_there_is_used_as_it_is() {
    let endpoint = elasticmq().await;
    let stream = stream("there");
    let plain = NewQueues::new().without_dead_letters();
    let sqs = driver(&endpoint).build().await.unwrap();
    assert!(sqs.create_queue(&stream, &plain).await.unwrap());
    assert!(!sqs.create_queue(&stream, &NewQueues::new()).await.unwrap());
    let error = sqs
        .create_queue(&stream, &plain.attribute("FifoQueue", "true"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}
