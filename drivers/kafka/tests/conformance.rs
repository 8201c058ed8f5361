//! The conformance kit on a real broker: on the one all tests share, and the cases that restart it
//! or cut the network on one of their own.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use streams_core::{AnyDriver, Error, ErrorKind, Result, StreamName, async_trait};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics};
use streams_services::{Faults, Service};
use streams_testkit::{
    ForeignProducer, Harness, Network, Profile, ReaderProcess, RunOptions, Server, this_test,
};

/// How many partitions a stream has, and so how many members of a group work at once.
const PARTITIONS: usize = 4;
/// Tells a process the kit starts where the broker is.
const BROKERS: &str = "STREAMS_KAFKA_CONFORMANCE_BROKERS";

struct Broker {
    brokers: String,
    faults: Option<Faults>,
}

impl Broker {
    fn at(brokers: String) -> Self {
        Self {
            brokers,
            faults: None,
        }
    }

    /// One of its own, behind a proxy.
    async fn own() -> Self {
        let server = tokio::task::spawn_blocking(|| {
            streams_services::Kafka::builder()
                .proxied()
                .start()
                .unwrap()
        });
        let server = server.await.unwrap();
        let proxy = server.proxy(1).await.unwrap();
        Self {
            brokers: server.proxied_address(),
            faults: Some(Faults::new(move || server.restart(), proxy)),
        }
    }

    fn driver(&self) -> KafkaBuilder {
        Kafka::builder(&self.brokers)
            // So that what a killed reader held comes again soon.
            .property("session.timeout.ms", "6000")
            .property("heartbeat.interval.ms", "500")
    }
}

#[async_trait]
impl Harness for Broker {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.driver().build()?))
    }

    fn name(&self) -> Option<String> {
        self.faults.as_ref().map(|_| "kafka (faults)".to_owned())
    }

    async fn create(&self, stream: &StreamName) -> Result<()> {
        let topics = NewTopics::new(u32::try_from(PARTITIONS).unwrap());
        let driver = self.driver().build()?;
        driver.create_topic(stream, &topics).await.map(drop)
    }

    async fn remove(&self, stream: &StreamName) -> Result<()> {
        self.driver().build()?.delete_topic(stream).await.map(drop)
    }

    fn profile(&self) -> Profile {
        // A broker that is started again takes its time, and more on a busy machine.
        let patience = if self.faults.is_some() { 60 } else { 20 };
        Profile::default()
            .members(PARTITIONS)
            .patience(Duration::from_secs(patience))
            // A member joins its group, and gets its partitions, only then its first message.
            .quiet(Duration::from_millis(500))
    }

    fn server(&self) -> Option<&dyn Server> {
        self.faults.as_ref().map(|faults| faults as &dyn Server)
    }

    fn network(&self) -> Option<&dyn Network> {
        self.faults.as_ref().map(|faults| faults as &dyn Network)
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        Some(this_test("reader_process").env(BROKERS, &self.brokers))
    }
}

#[async_trait]
impl ForeignProducer for Broker {
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .map_err(failed)?;
        producer
            .send(BaseRecord::<(), _>::to(stream.as_str()).payload(data))
            .map_err(|(error, _)| failed(error))?;
        tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(10)))
            .await
            .map_err(failed)?
            .map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Other, error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_broker() {
    let brokers = tokio::task::spawn_blocking(|| Service::Kafka.address().unwrap());
    let harness = Broker::at(brokers.await.unwrap());
    streams_testkit::run(harness).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_faults() {
    let options = RunOptions::from_env().only(["reconnect", "network_cut"]);
    let report = streams_testkit::run_with(Broker::own().await, options).await;
    report.assert_passed();
}

/// Does nothing unless the kit has started it as a process of its own.
#[test]
fn reader_process() {
    if let Ok(brokers) = std::env::var(BROKERS) {
        ReaderProcess::serve(&Broker::at(brokers));
    }
}
