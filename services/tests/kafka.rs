//! Brokers that are really started, and asked by a real client.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataPartition};
use streams_services::{Kafka, Service};

/// Long enough for anything on loopback.
const SOON: Duration = Duration::from_secs(30);

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    // Broken connections are what is tested here.
    config.set_log_level(RDKafkaLogLevel::Critical);
    config
}

fn metadata(config: &ClientConfig, patience: Duration) -> Result<Metadata, KafkaError> {
    let client: BaseConsumer = config.create().unwrap();
    client.fetch_metadata(None, patience)
}

fn ports(metadata: &Metadata) -> Vec<i32> {
    metadata
        .brokers()
        .iter()
        .map(MetadataBroker::port)
        .collect()
}

async fn create_topic(config: &ClientConfig, name: &str, replicas: i32) {
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(replicas));
    let created = admin
        .create_topics(&[topic], &AdminOptions::new().request_timeout(Some(SOON)))
        .await
        .unwrap();
    assert_eq!(created, [Ok(name.to_owned())]);
}

fn topics(config: &ClientConfig) -> Vec<String> {
    let metadata = metadata(config, SOON).unwrap();
    metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned())
        .collect()
}

#[tokio::test]
async fn a_broker_that_was_killed_comes_back_with_its_topics() {
    let kafka = Kafka::builder().start().unwrap();
    let address = kafka.address();
    create_topic(&config(&address), "orders", 1).await;
    kafka.kill();
    kafka.restart().unwrap();
    kafka.wait_ready().unwrap();
    assert_eq!(kafka.address(), address);
    assert_eq!(topics(&config(&address)), ["orders"]);
    assert!(kafka.stop(), "{}", kafka.node(1).log());
}

#[test]
fn a_property_takes_the_place_of_its_default_and_a_wrong_one_shows_the_log() {
    let error = Kafka::builder()
        .property("log.retention.ms", "never")
        .start()
        .unwrap_err()
        .to_string();
    assert!(error.contains("Invalid value never"), "{error}");
    for builder in [
        Kafka::builder().nodes(0),
        Kafka::builder().property("", 1),
        Kafka::builder().property("a", "1\nb=2"),
    ] {
        assert!(builder.start().is_err());
    }
}

#[test]
fn users_prove_who_they_are_in_every_way() {
    let kafka = Kafka::builder().secure().start().unwrap();
    let security = kafka.security();
    let mut secure = config(&kafka.secure_address());
    secure
        .set("security.protocol", "SASL_SSL")
        .set("ssl.ca.pem", security.authority_pem())
        .set("sasl.username", security.user())
        .set("sasl.password", security.password())
        .set("sasl.oauthbearer.config", "principal=anybody")
        .set("enable.sasl.oauthbearer.unsecure.jwt", "true");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] {
        secure.set("sasl.mechanism", mechanism);
        let metadata =
            metadata(&secure, SOON).unwrap_or_else(|error| panic!("{mechanism}: {error}"));
        assert_eq!(metadata.brokers().len(), 1);
    }
    let moment = Duration::from_secs(2);
    secure.set("sasl.mechanism", "SCRAM-SHA-512");
    let mut stranger = secure.clone();
    stranger.set("sasl.password", "guess");
    assert!(metadata(&stranger, moment).is_err());
    let mut distrustful = secure.clone();
    distrustful.remove("ssl.ca.pem");
    assert!(metadata(&distrustful, moment).is_err());

    let shown = format!("{kafka:?} {security:?}");
    assert!(!shown.contains(security.password()), "{shown}");
    assert!(shown.contains(security.user()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_the_proxy_stay_behind_it() {
    let kafka = Kafka::builder().proxied().start().unwrap();
    let proxy = kafka.proxy(1).await.unwrap();
    let behind = config(&kafka.proxied_address());
    let ask = async |patience| {
        let behind = behind.clone();
        tokio::task::spawn_blocking(move || metadata(&behind, patience))
            .await
            .unwrap()
    };
    assert_eq!(
        ports(&ask(SOON).await.unwrap()),
        [i32::from(proxy.address().port())]
    );
    proxy.cut();
    assert!(ask(Duration::from_secs(1)).await.is_err());
    proxy.mend(Duration::from_millis(20));
    ask(SOON).await.unwrap();
    // Those beside it do not notice.
    proxy.cut();
    metadata(&config(&kafka.address()), SOON).unwrap();
}

#[tokio::test]
async fn a_cluster_of_three_goes_on_without_a_leader() {
    let kafka = Kafka::builder().nodes(3).start().unwrap();
    let cluster = config(&kafka.address());
    create_topic(&cluster, "orders", 3).await;
    let leader = || {
        let metadata = metadata(&cluster, SOON).unwrap();
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == "orders");
        topic?.partitions().first().map(MetadataPartition::leader)
    };
    let first = leader().unwrap();
    kafka.node(usize::try_from(first).unwrap()).kill();
    let deadline = Instant::now() + SOON;
    let next = loop {
        match leader() {
            Some(next) if next > 0 && next != first => break next,
            _ => assert!(Instant::now() < deadline, "no leader but {first}"),
        }
    };
    assert_ne!(next, first);
    kafka.restart().unwrap();
    kafka.wait_ready().unwrap();
    assert_eq!(topics(&cluster), ["orders"]);
}

#[test]
fn the_tests_of_one_process_share_a_broker() {
    let address = Service::Kafka.address().unwrap();
    assert_eq!(Service::Kafka.address().unwrap(), address);
    metadata(&config(&address), SOON).unwrap();
}
