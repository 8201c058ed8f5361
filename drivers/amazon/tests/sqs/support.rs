//! What the tests share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use aws_sdk_sqs::Client;
use streams_amazon::{NewQueues, Sqs, SqsOptions};
use streams_core::{Delivery, Driver, Message, ReadOptions, Settlement, StreamName, Subscription};
use streams_services::Service;
use tokio::time::{Instant, timeout};

use crate::common::{client, driver, on_thread};
use crate::proxy::HttpProxy;

/// How long what must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A queue of a test's own, with the server behind a proxy.
pub(crate) struct Setup {
    pub(crate) proxy: HttpProxy,
    pub(crate) sqs: Sqs,
    pub(crate) stream: StreamName,
    /// Past the proxy.
    pub(crate) client: Client,
    pub(crate) url: String,
}

/// The server of most tests: the faster, and the stricter with what it takes.
pub(crate) async fn elasticmq() -> String {
    on_thread(|| Service::ElasticMq.address().unwrap()).await
}

/// The server for what ElasticMQ does not do as SQS does.
pub(crate) async fn moto() -> String {
    on_thread(|| Service::Moto.address().unwrap()).await
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(format!("{name}-{:016x}", fastrand::u64(..))).unwrap()
}

impl Setup {
    pub(crate) async fn new(name: &str) -> Self {
        Self::of(stream(name)).await
    }

    pub(crate) async fn fifo(name: &str) -> Self {
        let name = stream(name);
        Self::of(StreamName::new(format!("{name}.fifo")).unwrap()).await
    }

    async fn of(stream: StreamName) -> Self {
        let server = elasticmq().await;
        let proxy = HttpProxy::start(&server).await;
        let sqs = driver(&proxy.endpoint())
            .visibility_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(2))
            .build()
            .await
            .unwrap();
        let settings = NewQueues::new().without_dead_letters();
        sqs.create_queue(&stream, &settings).await.unwrap();
        let client = client(&server);
        let url = client.get_queue_url().queue_name(stream.as_str());
        let url = url.send().await.unwrap().queue_url.unwrap();
        Self {
            proxy,
            sqs,
            stream,
            client,
            url,
        }
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
        self.sqs.writer().write(messages).await.unwrap();
    }

    pub(crate) async fn subscribe(&self) -> Reading {
        self.subscribe_with(SqsOptions::new()).await
    }

    pub(crate) async fn subscribe_with(&self, own: SqsOptions) -> Reading {
        let mut options = ReadOptions::new(&self.stream).unwrap();
        options.driver.insert(own);
        Reading(self.sqs.reader().subscribe(&options).await.unwrap())
    }

    /// How often each message comes when all there are are read, until nothing comes for longer than a
    /// lease of the others'. Its own are long, so that on a busy machine none runs out meanwhile.
    pub(crate) async fn drain(&self) -> BTreeMap<String, usize> {
        let options = SqsOptions::new().visibility_timeout(PATIENCE);
        let mut reading = self.subscribe_with(options).await;
        let mut seen = BTreeMap::new();
        while let Some(deliveries) = reading.next_within(Duration::from_secs(3)).await {
            for delivery in &deliveries {
                *seen.entry(text(&delivery.message)).or_default() += 1;
            }
            let acks = deliveries.into_iter().map(Delivery::ack).collect();
            assert_eq!(reading.settle(acks).await.len(), 0, "lost");
        }
        reading.0.close().await.unwrap();
        seen
    }
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
    /// What comes next.
    pub(crate) async fn next(&mut self) -> Vec<Delivery> {
        self.next_within(PATIENCE).await.expect("nothing came")
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

    /// One message, and no request for more behind it.
    pub(crate) async fn one(&mut self) -> Delivery {
        let mut out = Vec::new();
        let received = timeout(PATIENCE, self.0.receive(NonZeroUsize::MIN, &mut out));
        received.await.expect("nothing came").unwrap();
        out.remove(0)
    }

    /// So many, however they come.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < until, "{} of {count} came", all.len());
            all.extend(self.next().await);
        }
        all
    }

    /// Settles all of it; says what was lost.
    pub(crate) async fn settle(
        &mut self,
        mut settlements: Vec<Settlement>,
    ) -> Vec<streams_core::TokenId> {
        let report = self.0.settle(&mut settlements).await.unwrap();
        assert!(settlements.is_empty());
        report.lost
    }
}
