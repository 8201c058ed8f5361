//! SQLite to SQS and to SNS, on servers that stand in for them.

use std::num::NonZeroUsize;
use std::time::Duration;

use rustix::process::Signal;
use streams_amazon::{NewQueues, NewSubscription, Sns, Sqs};
use streams_core::{Delivery, Driver, Message, ReadOptions, StreamName};
use streams_services::Service;
use tokio::time::timeout;

use crate::sqlite::write;
use crate::support::{Folder, LONG, Running, SECRET, duplicates, finish, message, program};

fn fifo() -> StreamName {
    StreamName::new(format!("payment-{:016x}.fifo", fastrand::u64(..))).unwrap()
}

fn url(scheme: &str, endpoint: &str) -> String {
    let endpoint = endpoint.replace(':', "%3A").replace('/', "%2F");
    format!("{scheme}://local:{SECRET}@?region=eu-west-1&endpoint={endpoint}")
}

/// What the relay brings to the stream, in its order.
async fn relayed(destination: &str, driver: impl Driver, stream: &StreamName) {
    let folder = Folder::new();
    let messages: Vec<_> = (0..25).map(|n| message(stream.as_str(), "17", n)).collect();
    write(&folder.url(), &messages).await;
    let source = folder.url();
    let settings = [("source-url", &*source), ("destination-url", destination)];
    let mut check = program(&settings);
    check.arg("--check");
    let (code, _, errors) = finish(check);
    assert_eq!(code, Some(0), "{errors}");

    let mut relay = Running::start(program(&settings));
    let options = ReadOptions::new(stream).unwrap();
    let mut reading = driver.reader().subscribe(&options).await.unwrap();
    let mut ids = Vec::new();
    while ids.len() < messages.len() {
        let mut deliveries = Vec::new();
        let received = reading.receive(NonZeroUsize::new(10).unwrap(), &mut deliveries);
        timeout(LONG, received)
            .await
            .expect("nothing came")
            .unwrap();
        let id = |delivery: &Delivery| Message::id(&delivery.message).to_string();
        ids.extend(deliveries.iter().map(id));
        let mut acks = deliveries.into_iter().map(Delivery::ack).collect();
        reading.settle(&mut acks).await.unwrap();
    }
    reading.close().await.unwrap();
    assert_eq!(duplicates(&ids, &messages), 0);
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
    let log = relay.log();
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn messages_go_to_a_queue() {
    let endpoint = Service::ElasticMq.address().unwrap();
    let stream = fifo();
    let sqs = Sqs::builder()
        .region("eu-west-1")
        .endpoint(&endpoint)
        .access_key("local", "local")
        .create_queues(NewQueues::new())
        .build()
        .await
        .unwrap();
    let destination = url("sqs", &endpoint) + "&create_queues=true";
    relayed(&destination, sqs, &stream).await;
}

#[tokio::test]
async fn messages_go_to_a_topic() {
    let endpoint = Service::Moto.address().unwrap();
    let stream = fifo();
    let sns = Sns::builder()
        .region("eu-west-1")
        .endpoint(&endpoint)
        .access_key("local", "local")
        .queues(Sqs::builder().wait(Duration::from_secs(1)))
        .build()
        .await
        .unwrap();
    let settings = NewSubscription::new();
    sns.create_subscription(&stream, &settings).await.unwrap();
    relayed(&url("sns", &endpoint), sns, &stream).await;
}

#[test]
fn a_server_that_is_not_there_fails_the_check() {
    for scheme in ["sqs", "sns"] {
        let folder = Folder::new();
        let (source, destination) = (folder.url(), url(scheme, "http://127.0.0.1:9"));
        let settings = [("source-url", &*source), ("destination-url", &*destination)];
        let mut migrate = program(&settings);
        migrate.arg("--migrate");
        assert_eq!(finish(migrate).0, Some(0));
        let mut check = program(&settings);
        check.arg("--check");
        let (code, _, errors) = finish(check);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("AWS cannot be reached"), "{errors}");
        assert!(!errors.contains(SECRET), "{errors}");
    }
}
