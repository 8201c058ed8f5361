//! Logging in, being refused, and keeping secrets.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use streams_core::{Driver as _, DriverRegistry, Error, ErrorKind, StreamName};
use streams_kafka::{Kafka, KafkaBuilder, NewTopics, Sasl, Tls, Token};

use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use crate::support::{
    PATIENCE, assert_once, assert_order_per_key, numbered, read, topic_with, unique,
};

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
    Kafka::builder(broker.secure_address())
        .tls(tls(broker))
        .sasl(sasl)
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
        assert!(
            kafka
                .create_topic(&topic, &NewTopics::new(1))
                .await
                .unwrap()
        );
        let writer = kafka.writer();
        writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
        writer
            .write_in_transaction(&[numbered(&topic, None, 1)])
            .await
            .unwrap();
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
    let kafka = DriverRegistry::new()
        .with::<Kafka>()
        .open(&url)
        .await
        .unwrap();
    kafka
        .writer()
        .write(&[numbered(&topic, None, 0)])
        .await
        .unwrap();
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
        let expires = SystemTime::now() + Duration::from_secs(10);
        Ok(Token::new(
            unsecured_token("billing", expires),
            "billing",
            expires,
        ))
    });
    let kafka = builder(broker, sasl).build().unwrap();
    let writer = kafka.writer();
    writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    assert_eq!(kafka.committed("group", &topic).await.unwrap(), [None]);
    let until = Instant::now() + PATIENCE;
    let before = *asked.lock().unwrap();
    while *asked.lock().unwrap() == before {
        assert!(Instant::now() < until, "asked {before} times only");
        writer.write(&[numbered(&topic, None, 0)]).await.unwrap();
    }
    let settings = NewTopics::new(1);
    let created = kafka.create_topic(unique("tokens"), &settings);
    let error = created.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// With tokens the settings of a topic cannot be read, so that only the brokers know what it takes.
#[tokio::test]
async fn without_the_topics_limit_only_what_is_larger_is_refused() {
    let broker = secure().await;
    let kafka = Kafka::builder(broker.address()).build().unwrap();
    let settings = NewTopics::new(1).config("max.message.bytes", "3000");
    let topic = topic_with(&kafka, "unknown-limit", &settings).await;
    let sasl = Sasl::oauth_bearer(move || {
        let expires = SystemTime::now() + Duration::from_secs(600);
        Ok(Token::new(
            unsecured_token("billing", expires),
            "billing",
            expires,
        ))
    });
    let kafka = builder(broker, sasl).build().unwrap();
    let writer = kafka.writer();
    let batch: Vec<_> = (0..100)
        .map(|n| {
            let message = numbered(&topic, Some(&format!("k{}", n % 3)), n);
            match n {
                50 => message.to_builder().data(vec![b'x'; 4000]).build().unwrap(),
                _ => message,
            }
        })
        .collect();
    let error = writer.write(&batch).await.unwrap_err();
    let mut failed = Vec::new();
    for (index, error) in error.failures() {
        let expected = match index {
            50 => ErrorKind::TooLarge,
            // Those that others of their key have overtaken.
            _ => ErrorKind::Conflict,
        };
        assert_eq!(error.kind(), expected, "{index}: {error}");
        failed.push(*index);
    }
    let records = read(&broker.address(), &topic).await;
    assert_once(&records, (0..100).filter(|n| !failed.contains(n)));
    assert_order_per_key(&records);
    // From now on batches are small.
    let error = writer.write(&batch).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [50]);
}

#[tokio::test]
async fn what_the_user_may_not_do_is_said() {
    let start = || {
        streams_services::Kafka::builder()
            .secure()
            .property(
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            )
            // The user of the tests may do nothing, whoever has not logged in everything.
            .property("super.users", "User:ANONYMOUS")
            .start()
            .unwrap()
    };
    let broker = tokio::task::spawn_blocking(start).await.unwrap();
    let topic = plain_topic(&broker).await;
    let security = broker.security();
    let sasl = Sasl::scram_sha_256(security.user(), security.password());
    let kafka = builder(&broker, sasl).build().unwrap();
    let writer = kafka.writer();
    let batch = [numbered(&topic, None, 0)];
    for error in [
        kafka.partitions(&topic).await.unwrap_err(),
        writer.write(&batch).await.unwrap_err().into(),
        writer.write_in_transaction(&batch).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        assert!(error.to_string().contains("the user may not"), "{error}");
    }
}

/// All that `tracing` is told, by whichever test.
#[derive(Default)]
struct Told(Mutex<String>);

struct Tell(Arc<Told>);

impl<S: tracing::Subscriber> Layer<S> for Tell {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Write<'a>(&'a mut String);
        impl tracing::field::Visit for Write<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut told = self.0.0.lock().unwrap();
        event.record(&mut Write(&mut told));
        told.push('\n');
    }
}

#[tokio::test]
async fn logs_tell_what_fails_and_no_secret() {
    let told = Arc::new(Told::default());
    let subscriber = tracing_subscriber::registry().with(Tell(told.clone()));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let broker = secure().await;
    let user = broker.security().user();
    let wrong = "a-wrong-password-5678";
    for (_, make) in MECHANISMS {
        let kafka = builder(broker, make(user.to_owned(), wrong.to_owned()));
        let kafka = kafka.property("debug", "all").build().unwrap();
        kafka.partitions("any").await.unwrap_err();
    }
    let told = told.0.lock().unwrap();
    assert!(told.contains("Authentication"), "{told}");
    assert!(
        told.contains("CONNECT"),
        "what the library says in detail is missing"
    );
    assert!(!told.contains(wrong));
}

/// A token without a signature, which a broker for tests takes.
fn unsecured_token(subject: &str, expires: SystemTime) -> String {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let claims = format!(
        r#"{{"sub":"{subject}","iat":{},"exp":{}}}"#,
        seconds(SystemTime::now()) - 1,
        seconds(expires),
    );
    format!(
        "{}.{}.",
        base64_url(r#"{"alg":"none"}"#),
        base64_url(&claims)
    )
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
            errors.push(
                writer
                    .write(&[numbered(&topic, None, 0)])
                    .await
                    .unwrap_err()
                    .into(),
            );
            errors.push(
                writer
                    .write_in_transaction(&[numbered(&topic, None, 0)])
                    .await
                    .unwrap_err(),
            );
            assert!(
                begun.elapsed() < Duration::from_secs(8),
                "{name}: {:?}",
                begun.elapsed()
            );
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
    assert_eq!(
        kafka.partitions(unique("any")).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
