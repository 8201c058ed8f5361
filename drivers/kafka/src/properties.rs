//! What the client library's properties are to this driver: whose they are, which it must set itself,
//! and which are secrets.

use std::fmt;

use streams_core::{Error, Result};

use crate::config::DRIVER;

/// Properties this driver must set itself, each with what to use instead.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "give the brokers to `Kafka::builder`"),
    (
        "metadata.broker.list",
        "give the brokers to `Kafka::builder`",
    ),
    ("client.id", "use `client_id`"),
    ("enable.auto.commit", COMMITS),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("offset.store.method", COMMITS),
    ("offset.store.path", COMMITS),
    ("offset.store.sync.interval.ms", COMMITS),
    ("group.id", "name the group with the subscription's `group`"),
    (
        "group.instance.id",
        "it is one member's own: set it with the subscription's `KafkaOptions`",
    ),
    (
        "auto.offset.reset",
        "say where to start with the subscription's `start_from`",
    ),
    (
        "enable.partition.eof",
        "the reader sets it where a read is to end with the partition",
    ),
    (
        "isolation.level",
        "the reader needs to see committed messages only",
    ),
    (
        "queued.max.messages.kbytes",
        "set it with the subscription's `KafkaOptions::prefetch`",
    ),
    (
        "statistics.interval.ms",
        "set it with the subscription's `KafkaOptions::statistics_interval`",
    ),
    ("transactional.id", "use `transactional_id`"),
    ("transaction.timeout.ms", "use `transaction_timeout`"),
    (
        "delivery.report.only.error",
        "every write waits for its delivery reports",
    ),
    (
        "allow.auto.create.topics",
        "use `create_topics`, which says how they are to be",
    ),
    ("message.max.bytes", "use `largest_message`"),
    ("queue.buffering.max.messages", "use `queue_messages`"),
    ("queue.buffering.max.kbytes", "use `queue_bytes`"),
    ("linger.ms", "use `linger`"),
    ("queue.buffering.max.ms", "use `linger`"),
    ("batch.size", "use `batch_size`"),
    ("message.timeout.ms", "use `delivery_timeout`"),
    ("delivery.timeout.ms", "use `delivery_timeout`"),
    ("compression.codec", "use `compression`"),
    ("compression.type", "use `compression`"),
    ("partitioner", "use `partitioner`"),
    ("log.queue", EVENTS),
    ("log_level", EVENTS),
    ("enabled_events", EVENTS),
    (
        "queuing.strategy",
        "the order of a key's messages would be lost",
    ),
];

const COMMITS: &str = "the runner commits what was handled, and nothing else";
const EVENTS: &str = "the client's events go to `tracing`; filter them there";

/// Properties that mean nothing to a consumer.
const OF_PRODUCERS: &[&str] = &[
    "acks",
    "batch.num.messages",
    "compression.level",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
];

/// Properties that mean nothing to a producer.
const OF_CONSUMERS: &[&str] = &[
    "check.crcs",
    "consume.callback.max.messages",
    "coordinator.query.interval.ms",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "queued.min.messages",
    "session.timeout.ms",
];

/// A property the application set, for all clients or for those that know it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Property {
    pub(crate) fn pair(&self) -> (String, String) {
        (self.name.clone(), self.value.clone())
    }

    pub(crate) fn is_secret(&self) -> bool {
        is_secret(&self.name)
    }

    /// Whether it is one of those by which idempotence is turned off.
    pub(crate) fn weakens_idempotence(&self) -> bool {
        const NAMES: &[&str] = &[
            "acks",
            "enable.idempotence",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "message.send.max.retries",
            "request.required.acks",
            "retries",
        ];
        NAMES.contains(&self.name.as_str())
    }

    pub(crate) fn is_for_producers(&self) -> bool {
        !OF_CONSUMERS.contains(&self.name.as_str())
    }

    pub(crate) fn is_for_consumers(&self) -> bool {
        !OF_PRODUCERS.contains(&self.name.as_str())
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.is_secret() { "***" } else { &self.value };
        write!(f, "{}={value}", self.name)
    }
}

/// Refuses what the driver must set itself.
pub(crate) fn check_not_owned(name: &str) -> Result<()> {
    let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == name) else {
        return Ok(());
    };
    Err(
        Error::invalid_config(format!("the driver sets `{name}` itself: {instead}"))
            .driver(DRIVER)
            .with("property", name),
    )
}

/// Whether the value of a property must not be seen.
pub(crate) fn is_secret(name: &str) -> bool {
    const PARTS: &[&str] = &["password", "secret", "passphrase", "private.key", "key.pem"];
    // The latter may hold the claims of a token, or a client's secret among others.
    PARTS.iter().any(|part| name.contains(part)) || name == "sasl.oauthbearer.config"
}

/// The values that must not be seen, to take them out of texts of the client library's.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a secret. One of fewer than four characters is none, and would be found everywhere.
    pub(crate) fn add(&mut self, secret: &str) {
        if secret.len() >= 4 && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
            // The longer first: one may be part of another.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// The text without them.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret) {
                text = text.replace(secret, "***");
            }
        }
        text
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_owns_is_refused_with_what_to_use_instead() {
        for (name, instead) in OWNED {
            let error = check_not_owned(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(instead), "{error}");
        }
        check_not_owned("socket.timeout.ms").unwrap();
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.config",
        ] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("sasl.username"));
    }

    #[test]
    fn secrets_are_hidden_whole() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2");
        secrets.add("hunter22");
        secrets.add("x");
        assert_eq!(
            secrets.hide("hunter22 and hunter2, x"),
            "*** and ***, x".to_owned()
        );
        assert!(!format!("{secrets:?}").contains("hunter"));
    }
}
