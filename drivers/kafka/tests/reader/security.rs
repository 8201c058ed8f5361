//! Reading over TLS with a password, and without the right one.

use std::error::Error as _;
use std::sync::OnceLock;

use streams_core::{Bus, Driver as _, Error, ErrorKind, ReadOptions};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics, Sasl, Tls};

use crate::logs::Log;
use crate::support::{
    Arrived, number, settings, shut_down, subscribe, take, topic, unique, write, write_range,
};

/// A broker that wants TLS and a password, for the tests here.
async fn secure() -> &'static streams_services::Kafka {
    static BROKER: OnceLock<streams_services::Kafka> = OnceLock::new();
    let start = || streams_services::Kafka::builder().secure().start().unwrap();
    tokio::task::spawn_blocking(move || BROKER.get_or_init(start))
        .await
        .unwrap()
}

fn with_password(broker: &streams_services::Kafka, password: &str) -> KafkaBuilder {
    let security = broker.security();
    Kafka::builder(broker.secure_address())
        .tls(Tls::new().ca_pem(security.authority_pem()))
        .sasl(Sasl::scram_sha_512(security.user(), password))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_over_tls_with_scram_and_goes_on_after_its_commits() {
    let broker = secure().await;
    let kafka = with_password(broker, broker.security().password())
        .build()
        .unwrap();
    let stream = topic(&kafka, "secure", &NewTopics::new(2)).await;
    write(&kafka, &stream, 100, 10).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    let handler = arrived.clone();
    bus.subscribe_stream(&stream, move |message, _| {
        let arrived = handler.clone();
        async move { arrived.add(&message) }
    })
    .group(stream.as_str())
    .register()
    .unwrap();
    bus.start().await.unwrap();
    arrived.wait(100).await;
    shut_down(&bus).await;
    let committed = kafka.committed(stream.as_str(), &stream).await.unwrap();
    assert_eq!(committed.iter().flatten().sum::<u64>(), 100);

    write_range(&kafka, &stream, 100..150, 10).await;
    let options = ReadOptions::new(&stream)
        .unwrap()
        .group(stream.as_str())
        .unwrap();
    let mut second = subscribe(&kafka, &options).await;
    let numbers = take(&mut *second, 50).await;
    let mut numbers: Vec<_> = numbers.iter().map(|d| number(&d.message)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (100..150).collect::<Vec<_>>());
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_without_being_shown() {
    const WRONG: &str = "a-wrong-password-of-a-reader";
    let broker = secure().await;
    let plain = settings(&broker.address()).build().unwrap();
    let stream = topic(&plain, "refused", &NewTopics::new(1)).await;
    let log = Log::listen();
    let kafka = with_password(broker, WRONG)
        .property("debug", "all")
        .build()
        .unwrap();
    for options in [
        ReadOptions::new(&stream).unwrap(),
        ReadOptions::new(&stream)
            .unwrap()
            .group(stream.as_str())
            .unwrap(),
        // The topic is not looked for with credentials that are refused.
        ReadOptions::new(unique("none")).unwrap(),
    ] {
        let Err(error) = kafka.reader().subscribe(&options).await else {
            panic!("the password is wrong");
        };
        assert_refused(&error, WRONG);
    }
    for exactly_once in [false, true] {
        let bus = Bus::new(kafka.clone());
        let handler = |_, _| async {};
        let subscription = bus
            .subscribe_stream(&stream, handler)
            .group(stream.as_str());
        match exactly_once {
            true => subscription.exactly_once().register().unwrap(),
            false => subscription.register().unwrap(),
        }
        assert_refused(&bus.start().await.unwrap_err(), WRONG);
        shut_down(&bus).await;
    }
    assert!(log.has(&["Authentication"]), "the client says why");
    assert!(
        log.has(&["DEBUG", "CONNECT"]),
        "and all else it says is heard"
    );
    assert!(!log.has(&[WRONG]));
    assert!(!format!("{kafka:?}").contains(WRONG));
}

fn assert_refused(error: &Error, password: &str) {
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("credentials"), "{error}");
    let mut texts = vec![format!("{error} {error:?} {error:#?}")];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }
    assert!(
        texts.iter().all(|text| !text.contains(password)),
        "{texts:?}"
    );
}
