//! What the tests share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use aws_sdk_sns::config::{BehaviorVersion, Credentials, Region};
use streams_amazon::{NewQueues, NewSubscription, Sns, SnsBuilder, Sqs, SqsBuilder};
use streams_core::{Delivery, Driver, Message, ReadOptions, StreamName, Subscription};
use streams_services::Service;
use tokio::time::timeout;

use crate::proxy::HttpProxy;

/// How long what must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const REGION: &str = "eu-west-1";

/// A topic with a queue that is read without a group, and SNS behind a proxy.
pub(crate) struct Setup {
    pub(crate) proxy: HttpProxy,
    pub(crate) sns: Sns,
    pub(crate) stream: StreamName,
}

pub(crate) async fn moto() -> String {
    let address = || Service::Moto.address().unwrap();
    tokio::task::spawn_blocking(address).await.unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(format!("{name}-{:016x}", fastrand::u64(..))).unwrap()
}

/// Queues past the proxy: their faults are tested with SQS alone.
pub(crate) async fn queues() -> SqsBuilder {
    Sqs::builder()
        .region(REGION)
        .endpoint(moto().await)
        .access_key("local", "local")
        .visibility_timeout(PATIENCE)
        .wait(Duration::from_secs(1))
}

pub(crate) async fn driver(endpoint: &str) -> SnsBuilder {
    Sns::builder()
        .region(REGION)
        .endpoint(endpoint)
        .access_key("local", "local")
        .request_timeout(Duration::from_secs(2))
        .queues(queues().await.create_queues(NewQueues::new()))
}

/// A client that knows nothing of this toolkit.
pub(crate) async fn client() -> aws_sdk_sns::Client {
    let config = aws_sdk_sns::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(moto().await)
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"));
    aws_sdk_sns::Client::from_conf(config.build())
}

/// The ARN of a stream's topic.
pub(crate) fn arn(stream: &StreamName) -> String {
    format!("arn:aws:sns:{REGION}:123456789012:{stream}")
}

impl Setup {
    pub(crate) async fn new(name: &str) -> Self {
        Self::of(stream(name), |driver| driver).await
    }

    pub(crate) async fn fifo(name: &str) -> Self {
        let name = format!("{}.fifo", stream(name));
        Self::of(StreamName::new(name).unwrap(), |driver| driver).await
    }

    pub(crate) async fn of(
        stream: StreamName,
        settings: impl FnOnce(SnsBuilder) -> SnsBuilder,
    ) -> Self {
        let proxy = HttpProxy::start(&moto().await).await;
        let sns = settings(driver(&proxy.endpoint()).await).build().await;
        let sns = sns.unwrap();
        let plain = NewSubscription::new().queues(NewQueues::new().without_dead_letters());
        sns.create_subscription(&stream, &plain).await.unwrap();
        Self { proxy, sns, stream }
    }

    /// Messages, each with its number as data, in this many keys.
    pub(crate) fn messages(&self, count: usize, keys: usize) -> Vec<Message> {
        let message = |number: usize| {
            let message = Message::builder(&self.stream).data(number.to_string());
            message
                .key(format!("key-{}", number % keys))
                .build()
                .unwrap()
        };
        (0..count).map(message).collect()
    }

    pub(crate) async fn write(&self, messages: &[Message]) {
        self.sns.writer().write(messages).await.unwrap();
    }

    pub(crate) async fn drain(&self) -> BTreeMap<String, usize> {
        drain(&self.sns, &ReadOptions::new(&self.stream).unwrap()).await
    }
}

/// How often each message comes when all there are are read, until nothing comes for a while.
pub(crate) async fn drain(sns: &Sns, options: &ReadOptions) -> BTreeMap<String, usize> {
    let mut reading = Reading(sns.reader().subscribe(options).await.unwrap());
    let mut seen = BTreeMap::new();
    while let Some(deliveries) = reading.next_within(Duration::from_secs(3)).await {
        for delivery in &deliveries {
            *seen.entry(text(&delivery.message)).or_default() += 1;
        }
        let mut acks = deliveries.into_iter().map(Delivery::ack).collect();
        let report = reading.0.settle(&mut acks).await.unwrap();
        assert_eq!(report.lost.len(), 0, "lost");
    }
    reading.0.close().await.unwrap();
    seen
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.data().to_vec()).unwrap()
}

/// What `drain` says when each of these came once.
pub(crate) fn once(numbers: impl IntoIterator<Item = usize>) -> BTreeMap<String, usize> {
    numbers.into_iter().map(|n| (n.to_string(), 1)).collect()
}

/// A subscription.
pub(crate) struct Reading(pub(crate) Box<dyn Subscription>);

impl Reading {
    pub(crate) async fn of(sns: &Sns, options: &ReadOptions) -> Self {
        Self(sns.reader().subscribe(options).await.unwrap())
    }

    pub(crate) async fn next_within(&mut self, within: Duration) -> Option<Vec<Delivery>> {
        let mut out = Vec::new();
        let max = NonZeroUsize::new(100).unwrap();
        match timeout(within, self.0.receive(max, &mut out)).await {
            Ok(received) => {
                received.unwrap();
                Some(out)
            }
            Err(_) => None,
        }
    }

    /// One message, acknowledged.
    pub(crate) async fn one(&mut self) -> Message {
        let mut out = Vec::new();
        let received = timeout(PATIENCE, self.0.receive(NonZeroUsize::MIN, &mut out));
        received.await.expect("nothing came").unwrap();
        let delivery = out.remove(0);
        let message = delivery.message.clone();
        let settled = self.0.settle(&mut vec![delivery.ack()]).await.unwrap();
        assert!(settled.lost.is_empty());
        message
    }
}
