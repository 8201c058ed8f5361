//! A broker, topics and messages.

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use streams_bench::SIZE;
use streams_core::{Message, StreamName, ksuid};
use streams_kafka::{Kafka, NewTopics};
use streams_services::Service;
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Setup {
    pub(crate) brokers: String,
    pub(crate) runtime: Runtime,
    pub(crate) kafka: Kafka,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let brokers = Service::Kafka.address().expect("a broker");
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let kafka = Kafka::builder(&brokers).build().expect("valid settings");
        Self {
            brokers,
            runtime,
            kafka,
        }
    }

    /// What the driver and the raw client have in common.
    pub(crate) fn raw(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// A topic of its own.
    pub(crate) fn topic(&self, partitions: u32) -> StreamName {
        let name = StreamName::new(format!("bench-{}", ksuid().expect("an id"))).expect("valid");
        let topics = NewTopics::new(partitions);
        let created = self.kafka.create_topic(&name, &topics);
        self.runtime.block_on(created).expect("a topic");
        name
    }

    pub(crate) fn delete(&self, topic: &StreamName) {
        let deleted = self.runtime.block_on(self.kafka.delete_topic(topic));
        deleted.expect("the topic is deleted");
    }
}

/// A message of 256 bytes with a key of 100.
pub(crate) fn message(stream: &StreamName, number: usize) -> Message {
    Message::builder(stream)
        .key(format!("key-{}", number % 100))
        .data(vec![b'x'; SIZE])
        .build()
        .expect("a valid message")
}

/// The headers the driver writes, for records that are the same on the wire.
pub(crate) fn headers(id: &str) -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(2)
        .insert(Header {
            key: "message_id",
            value: Some(id),
        })
        .insert(Header {
            key: "content_type",
            value: Some("application/octet-stream"),
        })
}
