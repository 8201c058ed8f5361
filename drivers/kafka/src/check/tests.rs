use streams_core::ErrorKind;

use super::*;
use crate::{Compression, Kafka, KafkaBuilder, NewTopics, Sasl, Tls};

fn settings() -> KafkaBuilder {
    Kafka::builder("localhost:9092")
}

fn refused(builder: KafkaBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    format!("{error:?}")
}

#[test]
fn addresses_are_checked() {
    for good in [
        "a",
        "a:1",
        "a:9092, b:9093",
        "[::1]:9092",
        "[::1]",
        "127.0.0.1:65535",
    ] {
        assert!(check_brokers(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a,,b",
        ":9092",
        "a:",
        "a:0",
        "a:70000",
        "u:p@a:1",
        "kafka://a:1",
        "a b",
    ] {
        assert!(check_brokers(bad).is_err(), "{bad}");
    }
    assert!(!refused(Kafka::builder("u:hunter2@a:1")).contains("hunter2"));
}

#[test]
fn the_defaults_are_good_and_every_setting_is_checked() {
    settings().build().unwrap();
    let second = Duration::from_secs(1);
    for (builder, named) in [
        (settings().client_id(""), "`client_id`"),
        (
            settings().connect_timeout(Duration::ZERO),
            "`connect_timeout`",
        ),
        (
            settings().delivery_timeout(Duration::MAX),
            "`delivery_timeout`",
        ),
        (settings().linger(1000 * second), "`linger`"),
        (
            settings().linger(second).delivery_timeout(second),
            "`linger`",
        ),
        (
            settings().transaction_timeout(second / 2),
            "`transaction_timeout`",
        ),
        (settings().transactional_id(""), "`transactional_id`"),
        (settings().batch_size(0), "`batch_size`"),
        (settings().largest_message(usize::MAX), "`largest_message`"),
        (settings().queue_messages(0), "`queue_messages`"),
        (settings().queue_bytes(0), "`queue_bytes`"),
        (settings().create_topics(NewTopics::new(0)), "partition"),
        (settings().sasl(Sasl::plain("", "x")), "empty user"),
    ] {
        let error = refused(builder);
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn properties_are_checked_by_the_library_and_named() {
    settings()
        .property("socket.nagle.disable", "true")
        .property("session.timeout.ms", "6000")
        .property("acks", "all")
        .property("enable.idempotence", "false")
        .build()
        .unwrap();
    for (name, value, said) in [
        ("no.such.property", "1", "No such configuration property"),
        ("socket.timeout.ms", "many", "socket.timeout.ms"),
        ("group.id", "a", "the subscription's `group`"),
        // Only together with idempotence.
        ("acks", "1", "acks"),
        // Only together with the session's timeout.
        ("max.poll.interval.ms", "100", "max.poll.interval.ms"),
    ] {
        let error = refused(settings().property(name, value));
        assert!(error.contains(said), "{name}: {error}");
    }
    // The last value counts.
    let twice = settings().property("acks", "1").property("acks", "all");
    twice.build().unwrap();
}

#[test]
fn secrets_show_nowhere() {
    const SECRET: &str = "hunter2-is-secret";
    let mut shown = Vec::new();
    for name in [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
    ] {
        let builder = settings()
            .property("security.protocol", "sasl_ssl")
            .property("sasl.mechanism", "PLAIN")
            .property("sasl.username", "me")
            .property(name, SECRET);
        shown.push(format!("{builder:?}"));
        match builder.clone().build() {
            Ok(kafka) => shown.push(format!("{kafka:?}")),
            Err(error) => shown.push(format!("{error:?} {error}")),
        }
        // A bad value elsewhere, and one that is the secret.
        let error = refused(builder.property("socket.timeout.ms", SECRET));
        shown.push(error);
    }
    let builder = settings().sasl(Sasl::plain("me", SECRET));
    shown.push(format!("{builder:?} {:?}", builder.clone().build()));
    let builder = builder.tls(
        Tls::new()
            .certificate_pem("no certificate", SECRET)
            .key_password(SECRET),
    );
    shown.push(format!("{builder:?} {:?}", builder.clone().build()));
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn what_needs_a_feature_is_refused_without_it() {
    for builder in [
        settings().tls(Tls::new()),
        settings().sasl(Sasl::scram_sha_256("me", "x")),
        settings().sasl(Sasl::oauth_bearer(|| Err("none".into()))),
    ] {
        let error = refused(builder);
        assert!(error.contains("feature `tls`"), "{error}");
    }
    settings().sasl(Sasl::plain("me", "x")).build().unwrap();
}

#[cfg(not(feature = "zstd"))]
#[test]
fn zstd_is_refused_without_its_feature() {
    let error = refused(settings().compression(Compression::Zstd));
    assert!(error.contains("feature `zstd`"), "{error}");
}

#[tokio::test]
async fn urls_set_what_builders_do() {
    use streams_core::{DriverRegistry, DriverUrl};
    let url = "kafka://a:1,b:2?client_id=billing&connect_timeout_ms=1500&delivery_timeout_ms=30000\
               &linger_ms=5&batch_size=100000&compression=lz4&partitioner=fnv1a\
               &largest_message=5000&queue_messages=10&queue_bytes=1000&transactional_id=tx\
               &transaction_timeout_ms=5000&create_partitions=3&create_replication=1";
    let url = DriverUrl::parse(url).unwrap();
    let from_url = format!("{:?}", KafkaBuilder::from_url(&url).unwrap());
    let built = Kafka::builder("a:1,b:2")
        .client_id("billing")
        .connect_timeout(Duration::from_millis(1500))
        .delivery_timeout(Duration::from_secs(30))
        .linger(Duration::from_millis(5))
        .batch_size(100_000)
        .compression(Compression::Lz4)
        .partitioner(crate::Partitioner::Fnv1a)
        .largest_message(5000)
        .queue_messages(10)
        .queue_bytes(1000)
        .transactional_id("tx")
        .transaction_timeout(Duration::from_secs(5))
        .create_topics(NewTopics::new(3).replication(1));
    assert_eq!(from_url, format!("{built:?}"));

    let drivers = DriverRegistry::new().with::<Kafka>();
    for (url, said) in [
        ("kafka://a:1/topic", "path"),
        ("kafka:", "addresses"),
        ("kafka://a:1?compression=zip", "gzip"),
        ("kafka://a:1?group=a", "`group`"),
        ("kafka://a:1?linger_ms=x", "linger_ms"),
        ("kafka://a:1?create_replication=1", "create_partitions"),
        ("kafka://me:hunter2@a:1", "sasl="),
        ("kafka://a:1?sasl=plain", "user and password"),
        ("kafka://a:1?ca_file=/a", "tls=true"),
        ("kafka://a:1?tls=true&key_file=/a", "certificate_file"),
    ] {
        let error = drivers.open(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        let error = format!("{error:?}");
        assert!(
            error.contains(said) && !error.contains("hunter2"),
            "{url}: {error}"
        );
    }
}
