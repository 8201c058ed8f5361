//! Settings, by builder and by URL.

use std::time::Duration;

use streams_chanbuf::Chanbuf;
use streams_core::{
    Acknowledgement, AnyDriver, Driver, DriverOptions, DriverRegistry, ErrorKind, Message, Order,
    ReadOptions, Result,
};

async fn open(url: &str) -> Result<AnyDriver> {
    DriverRegistry::new().with::<Chanbuf>().open(url).await
}

#[test]
fn settings_that_cannot_be_are_refused_when_building() {
    let second = Duration::from_secs(1);
    let bad = [
        Chanbuf::builder().capacity(0),
        Chanbuf::builder().dead_letter_capacity(0),
        Chanbuf::builder().max_scheduled(0),
        Chanbuf::builder().lease(Duration::ZERO),
        Chanbuf::builder().largest_message(0),
    ];
    for builder in bad {
        let error = builder.clone().build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{builder:?}");
        assert!(error.to_string().contains("is 0"), "{error}");
        let text = error.to_string();
        let advice = ["use 1 or more", "leave it out"];
        assert!(advice.iter().any(|advice| text.contains(advice)), "{error}");
    }
    let error = Chanbuf::builder()
        .capacity((1 << 20) + 1)
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("1,048,576"), "{error}");
    assert!(Chanbuf::builder().capacity(1 << 20).build().is_ok());
    assert!(Chanbuf::builder().capacity(1).lease(second).build().is_ok());
}

#[tokio::test]
async fn urls_set_what_the_builder_sets() {
    let driver =
        open("chanbuf:?capacity=2&full=refuse&unheld=discard&largest_message=10&lease_ms=5")
            .await
            .unwrap();
    let capabilities = driver.reader().capabilities().clone();
    assert_eq!(capabilities.largest_message, Some(10));
    assert!(capabilities.leases && !capabilities.keeps_before_group);
    let message = Message::builder("s").data("x").build().unwrap();
    driver
        .writer()
        .write(std::slice::from_ref(&message))
        .await
        .unwrap();
    let kept = open("chanbuf:?retain=5").await.unwrap();
    assert!(kept.reader().capabilities().keeps_before_group);
    // Each URL opens a broker of its own.
    assert!(
        open("chanbuf:")
            .await
            .unwrap()
            .writer()
            .write(&[message])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn bad_urls_say_what_is_wrong() {
    for (url, says) in [
        ("chanbuf://host", "host"),
        ("chanbuf:/path", "path"),
        ("chanbuf:?capacity=0", "capacity"),
        ("chanbuf:?capacity=x", "capacity"),
        ("chanbuf:?capacity=-1", "capacity"),
        ("chanbuf:?full=maybe", "refuse"),
        ("chanbuf:?unheld=keep", "discard"),
        ("chanbuf:?lease_ms=0", "lease"),
        ("chanbuf:?delay=1", "capacity"),
    ] {
        let error = open(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
}

#[derive(Debug)]
struct KafkaOptions;

impl DriverOptions for KafkaOptions {
    const DRIVER: &'static str = "kafka";
}

#[tokio::test]
async fn options_of_another_driver_and_unknown_arguments_are_refused() {
    let reader = Chanbuf::new().reader();
    let mut foreign = ReadOptions::new("s").unwrap();
    foreign.driver.insert(KafkaOptions);
    let mut unknown = ReadOptions::new("s").unwrap();
    unknown.driver.set("visibility", "5");
    for (options, says) in [(foreign, "kafka"), (unknown, "lease_ms")] {
        let Err(error) = reader.subscribe(&options).await else {
            panic!("{options:?} was taken");
        };
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.is_retryable());
    }
}

#[test]
fn capabilities_are_what_was_built() {
    let reader = Chanbuf::new().reader();
    let has = reader.capabilities();
    assert!(has.groups && has.no_group && has.attempts && has.creates_streams);
    assert!(has.cancel_delayed && has.list_delayed && has.binary_headers);
    assert!(!has.durable && !has.leases && !has.partitions && !has.keeps_before_group);
    assert_eq!(has.order, Order::PerKey);
    assert_eq!(has.acknowledgement, Acknowledgement::Individual);
    assert_eq!(
        (has.delay, has.delayed_redelivery),
        (Some(Duration::MAX), Some(Duration::MAX))
    );
    assert_eq!(has.largest_message, None);
    let start = has.start;
    assert!(start.earliest && start.latest && start.position && start.time);
}
