//! Logging in, being refused, and keeping secrets.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use streams_core::{Driver as _, DriverRegistry, Error, ErrorKind, StreamName};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics, Sasl, Tls, Token};

use crate::support::{PATIENCE, numbered, read, unique};

/// A broker that wants TLS and a password, for all tests here.
async fn secure() -> &'static streams_services::Kafka {
    static BROKER: OnceLock<streams_services::Kafka> = OnceLock::new();
    let start = || streams_services::Kafka::builder().secure().start().unwrap();
    tokio::task::spawn_blocking(move || BROKER.get_or_init(start))
        .await
        .unwrap()
}

fn tls(broker: &streams_services::Kafka) -> Tls {
    Tls::new().ca_pem(broker.security().authority_pem())
}

fn builder(broker: &streams_services::Kafka, sasl: Sasl) -> KafkaBuilder {
    Kafka::builder(broker.secure_address()).tls(tls(broker)).sasl(sasl)
}

type MakeSasl = fn(String, String) -> Sasl;
const MECHANISMS: [(&str, MakeSasl); 3] = [
    ("plain", Sasl::plain),
    ("scram-sha-256", Sasl::scram_sha_256),
    ("scram-sha-512", Sasl::scram_sha_512),
];

#[tokio::test]
async fn every_mechanism_logs_in_over_tls() {
    let broker = secure().await;
    let (user, password) = (broker.security().user(), broker.security().password());
    for (name, make) in MECHANISMS {
        let kafka = builder(broker, make(user.to_owned(), password.to_owned()));
        let kafka = kafka.build().unwrap();
        let topic = unique(name);
        assert!(kafka.create_topic(&topic, &NewTopics::new(1)).await.unwrap());
        let writer = kafka.writer();
        writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
        writer.write_in_transaction(&[numbered(&topic, None, 1)]).await.unwrap();
        assert_eq!(kafka.committed("group", &topic).await.unwrap(), [None]);
        assert_eq!(read(&broker.address(), &topic).await.len(), 2);
    }
}

#[tokio::test]
async fn a_url_logs_in_too() {
    let broker = secure().await;
    let security = broker.security();
    let place = tempfile::tempdir().unwrap();
    let ca = place.path().join("ca.pem");
    std::fs::write(&ca, security.authority_pem()).unwrap();
    let (user, password) = (security.user(), security.password());
    let topic = plain_topic(broker).await;
    let url = format!(
        "kafka://{user}:{password}@{}?tls=true&ca_file={}&sasl=scram-sha-512",
        broker.secure_address(),
        ca.display(),
    );
    let kafka = DriverRegistry::new().with::<Kafka>().open(&url).await.unwrap();
    kafka.writer().write(&[numbered(&topic, None, 0)]).await.unwrap();
    assert_eq!(read(&broker.address(), &topic).await.len(), 1);
}

/// Made without logging in.
async fn plain_topic(broker: &streams_services::Kafka) -> StreamName {
    let kafka = Kafka::builder(broker.address()).build().unwrap();
    crate::support::topic(&kafka, "secure", 1).await
}

#[tokio::test]
async fn tokens_log_in_and_are_asked_for_again() {
    let broker = secure().await;
    let topic = plain_topic(broker).await;
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let sasl = Sasl::oauth_bearer(move || {
        *count.lock().unwrap() += 1;
        let expires = SystemTime::now() + Duration::from_secs(5);
        Ok(Token::new(unsecured_token("billing", expires), "billing", expires))
    });
    let kafka = builder(broker, sasl).build().unwrap();
    let writer = kafka.writer();
    writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    assert_eq!(kafka.committed("group", &topic).await.unwrap(), [None]);
    let until = Instant::now() + PATIENCE;
    let before = *asked.lock().unwrap();
    while *asked.lock().unwrap() < before + 2 {
        assert!(Instant::now() < until, "asked {before} times only");
        writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    }
    let error = kafka.create_topic(unique("tokens"), &NewTopics::new(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// A token without a signature, which a broker for tests takes.
fn unsecured_token(subject: &str, expires: SystemTime) -> String {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = format!(
        r#"{{"sub":"{subject}","iat":{},"exp":{}}}"#,
        seconds(SystemTime::now()) - 1,
        seconds(expires),
    );
    format!("{}.{}.", base64_url(r#"{"alg":"none"}"#), base64_url(&claims))
}

fn base64_url(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = (0..3).fold(0_usize, |bits, i| {
            bits << 8 | usize::from(chunk.get(i).copied().unwrap_or(0))
        });
        let digit = move |i: usize| char::from(DIGITS[bits >> (18 - 6 * i) & 63]);
        (0..=chunk.len()).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(digits).collect()
}

#[tokio::test]
async fn wrong_credentials_are_refused_at_once_without_being_shown() {
    let broker = secure().await;
    let wrong = "a-wrong-password-1234";
    for (name, make) in MECHANISMS {
        let sasl = make(broker.security().user().to_owned(), wrong.to_owned());
        let kafka = builder(broker, sasl).build().unwrap();
        let topic = plain_topic(broker).await;
        let writer = kafka.writer();
        for _ in 0..2 {
            let begun = Instant::now();
            let mut errors = vec![kafka.partitions(&topic).await.unwrap_err()];
            errors.push(writer.write(&[numbered(&topic, None, 0)]).await.unwrap_err().into());
            errors.push(writer.write_in_transaction(&[numbered(&topic, None, 0)]).await.unwrap_err());
            assert!(begun.elapsed() < Duration::from_secs(8), "{name}: {:?}", begun.elapsed());
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Permission, "{name}: {error:?}");
                assert!(!error.is_retryable());
                assert_no_secret(&error, wrong);
            }
        }
        assert!(!format!("{kafka:?}").contains(wrong));
    }
}

fn assert_no_secret(error: &Error, secret: &str) {
    let mut texts = vec![format!("{error:?}"), format!("{error}")];
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        texts.push(format!("{cause} {cause:?}"));
        source = cause.source();
    }
    for text in texts {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_broker_nobody_vouches_for_is_refused() {
    let broker = secure().await;
    let security = broker.security();
    let sasl = Sasl::scram_sha_256(security.user(), security.password());
    let kafka = Kafka::builder(broker.secure_address())
        .tls(Tls::new())
        .sasl(sasl.clone())
        .connect_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let error = kafka.partitions("any").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(error.to_string().contains("TLS handshake"), "{error}");

    let kafka = Kafka::builder(broker.secure_address())
        .tls(Tls::new().danger_accept_any_certificate())
        .sasl(sasl)
        .build()
        .unwrap();
    assert_eq!(kafka.partitions(unique("any")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

