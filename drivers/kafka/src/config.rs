//! Settings of the driver.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use streams_core::{
    Acknowledgement, Capabilities, DriverUrl, Error, Order, Result, StartPositions,
};

use crate::Kafka;
use crate::check::check;
use crate::properties::{Property, Secrets};
use crate::security::{Sasl, Security, Tls};
use crate::topics::NewTopics;

pub(crate) const DRIVER: &str = "kafka";

/// What a record may have besides its data, with the default largest message just what a topic takes
/// by default.
const ROOM_FOR_KEY_AND_HEADERS: usize = 48_588;

/// How a key picks its partition. All writers of a topic must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Partitioner {
    /// MurmurHash2, as the Java client. The default.
    #[default]
    Murmur2,
    /// FNV-1a 32, as the Go libraries sarama and goka.
    Fnv1a,
    /// CRC-32, as librdkafka by default.
    Crc32,
}

impl Partitioner {
    fn name(self) -> &'static str {
        match self {
            Self::Murmur2 => "murmur2_random",
            Self::Fnv1a => "fnv1a_random",
            Self::Crc32 => "consistent_random",
        }
    }
}

/// How batches are compressed on their way and on the brokers' disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all. The default.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard. Requires the feature `zstd`.
    Zstd,
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) brokers: String,
    pub(crate) client_id: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) batch_size: usize,
    pub(crate) compression: Compression,
    pub(crate) partitioner: Partitioner,
    pub(crate) largest_message: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) transactional_id: Option<String>,
    pub(crate) transaction_timeout: Duration,
    pub(crate) create_topics: Option<NewTopics>,
    pub(crate) security: Security,
    pub(crate) properties: Vec<Property>,
    /// Of all the above; filled in by `build`.
    pub(crate) secrets: Secrets,
}

impl Config {
    fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            client_id: "streams".to_owned(),
            connect_timeout: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(120),
            linger: Duration::ZERO,
            batch_size: 1_000_000,
            compression: Compression::None,
            partitioner: Partitioner::Murmur2,
            largest_message: 1_000_000,
            queue_messages: 100_000,
            queue_bytes: 64 << 20,
            transactional_id: None,
            transaction_timeout: Duration::from_secs(60),
            create_topics: None,
            security: Security::default(),
            properties: Vec::new(),
            secrets: Secrets::default(),
        }
    }

    /// What all clients have.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("message.max.bytes", self.largest_record().to_string())
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true")
            // As the Java client: a broker that is back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            // All that the client library says; `tracing` filters it.
            .set_log_level(RDKafkaLogLevel::Debug);
        self.security.set(&mut config);
        config
    }

    /// For members of a group, or readers that only name themselves by it.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.any_consumer();
        config.set("group.id", group);
        config
    }

    /// For a consumer without a group.
    pub(crate) fn any_consumer(&self) -> ClientConfig {
        let mut config = self.client();
        let properties = self.properties.iter().filter(|one| one.is_for_consumers());
        config.extend(properties.map(Property::pair));
        config
    }

    /// For clients that only ask and administrate.
    pub(crate) fn admin(&self) -> ClientConfig {
        let mut config = self.client();
        let properties = self.properties.iter();
        let both = properties.filter(|one| one.is_for_consumers() && one.is_for_producers());
        config.extend(both.map(Property::pair));
        config
    }

    pub(crate) fn producer(&self) -> ClientConfig {
        self.any_producer(|_| true)
    }

    /// A transactional producer is idempotent whatever the application set for the others.
    pub(crate) fn transactional_producer(&self, id: &str) -> ClientConfig {
        let timeout = self.delivery_timeout.min(self.transaction_timeout);
        let mut config = self.any_producer(|one| !one.weakens_idempotence());
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", millis(self.transaction_timeout))
            .set("message.timeout.ms", millis(timeout));
        config
    }

    fn any_producer(&self, takes: impl Fn(&Property) -> bool) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", fraction_of_millis(self.linger))
            .set("batch.size", self.batch_size.to_string())
            .set("compression.type", self.compression.name())
            .set("partitioner", self.partitioner.name())
            .set("message.timeout.ms", millis(self.delivery_timeout))
            // What is on its way is bounded by `Deliveries`, in order and fairly.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", i32::MAX.to_string());
        let properties = self.properties.iter();
        let properties = properties.filter(|one| one.is_for_producers() && takes(one));
        config.extend(properties.map(Property::pair));
        config
    }

    /// A transactional id that nobody else has.
    pub(crate) fn new_transactional_id(&self) -> String {
        let prefix = self.transactional_id.as_ref().unwrap_or(&self.client_id);
        format!("{prefix}-{:016x}", fastrand::u64(..))
    }

    /// The most bytes of one record with all it carries.
    pub(crate) fn largest_record(&self) -> usize {
        self.largest_message.max(1_000_000) + ROOM_FOR_KEY_AND_HEADERS
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::none(DRIVER)
            .groups(true)
            .no_group(true)
            .durable(true)
            .keeps_before_group(true)
            .order(Order::PerKey)
            .acknowledgement(Acknowledgement::Cumulative)
            .partitions(true)
            .start(StartPositions {
                earliest: true,
                latest: true,
                position: true,
                time: true,
            })
            .transactions(true)
            .exactly_once(true)
            .creates_streams(self.create_topics.is_some())
            .largest_message(Some(self.largest_message))
            .binary_headers(true)
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn fraction_of_millis(duration: Duration) -> String {
    (duration.as_secs_f64() * 1000.0).to_string()
}

/// Builds a [`Kafka`]; made by [`Kafka::builder`].
///
/// ```
/// use std::time::Duration;
/// use streams_kafka::{Compression, Kafka, NewTopics, Sasl, Tls};
///
/// let kafka = Kafka::builder("kafka-1:9093,kafka-2:9093")
///     .tls(Tls::new().ca_pem("-----BEGIN CERTIFICATE-----..."))
///     .sasl(Sasl::scram_sha_512("billing", "a password"))
///     .compression(Compression::Lz4)
///     .delivery_timeout(Duration::from_secs(30))
///     .create_topics(NewTopics::new(12).replication(3))
///     .property("socket.nagle.disable", "true");
/// # let _ = kafka;
///
/// let error = Kafka::builder("kafka:9092").property("group.id", "a").build().unwrap_err();
/// assert!(error.to_string().contains("the subscription's `group`"));
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct KafkaBuilder {
    config: Config,
}

impl KafkaBuilder {
    pub(crate) fn new(brokers: &str) -> Self {
        Self {
            config: Config::new(brokers),
        }
    }

    /// Sets the name under which the brokers log this program and count its quota; the default is
    /// `streams`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.config.client_id = id.into();
        self
    }

    /// Sets how long the first contact with the brokers may take before it fails with
    /// [`Unavailable`](streams_core::ErrorKind::Unavailable); the default is 10 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets how long a message is sent again until the brokers confirm it; then it fails with
    /// [`Timeout`](streams_core::ErrorKind::Timeout). The default is 120 seconds.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// Sets how long a message waits for others to go with it; the default is not at all. What
    /// comes while a request is on its way goes together in the next, so that batches form under
    /// load by themselves.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Sets the most bytes that go to a partition at once; the default is 1,000,000.
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.config.batch_size = bytes;
        self
    }

    /// Sets how batches are compressed; the default is not at all.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.config.compression = compression;
        self
    }

    /// Sets how keys pick their partitions; the default is as the Java client does. Messages without
    /// a key are spread.
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.config.partitioner = partitioner;
        self
    }

    /// Sets the largest data of one message, in bytes; the default is 1,000,000. The topic's
    /// `max.message.bytes` must take it too, with key and headers.
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.config.largest_message = bytes;
        self
    }

    /// Sets how many messages may be on their way to the brokers at once; the default is 100,000.
    /// Writers then wait in turn.
    pub fn queue_messages(mut self, messages: usize) -> Self {
        self.config.queue_messages = messages;
        self
    }

    /// Sets how many bytes may be on their way to the brokers at once; the default is 64 MiB.
    /// Writers then wait in turn.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.config.queue_bytes = bytes;
        self
    }

    /// Sets what transactional ids begin with; the default is the client's id. What follows is
    /// unique to each producer, so that none takes another's place.
    pub fn transactional_id(mut self, prefix: impl Into<String>) -> Self {
        self.config.transactional_id = Some(prefix.into());
        self
    }

    /// Sets after what time the brokers give up a transaction whose producer has died; the default
    /// is 60 seconds. Readers of committed messages wait for it so long.
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.config.transaction_timeout = timeout;
        self
    }

    /// Creates topics that do not exist when they are first written or subscribed to. Without this
    /// that is [`NotFound`](streams_core::ErrorKind::NotFound), whatever the brokers'
    /// `auto.create.topics.enable` says.
    pub fn create_topics(mut self, topics: NewTopics) -> Self {
        self.config.create_topics = Some(topics);
        self
    }

    /// Encrypts connections.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.config.security.tls = Some(tls);
        self
    }

    /// Says who the client is.
    pub fn sasl(mut self, sasl: Sasl) -> Self {
        self.config.security.sasl = Some(sasl);
        self
    }

    /// Sets any [property of librdkafka], over what the driver sets by itself. It goes to producers,
    /// consumers or both, as it is for. Those the driver must own are refused by
    /// [`build`](KafkaBuilder::build), with what to use instead, as are those that are unknown.
    ///
    /// [property of librdkafka]: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.config.properties.retain(|other| other.name != name);
        self.config.properties.push(Property { name, value });
        self
    }

    /// The driver. Nothing is connected yet, but every setting has been checked.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be.
    pub fn build(self) -> Result<Kafka> {
        let mut config = self.config;
        config.security.secrets(&mut config.secrets);
        for property in config.properties.iter().filter(|one| one.is_secret()) {
            config.secrets.add(&property.value);
        }
        check(&config)?;
        Ok(Kafka::with(config))
    }

    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        let bad = |what: &str| Error::invalid_config(what).driver(DRIVER);
        if !url.path().trim_matches('/').is_empty() {
            return Err(bad(
                "the URL of Kafka has a path, which means nothing; leave it out, as in \
                 `kafka://host:9092?client_id=billing`",
            ));
        }
        let mut this = Self::new(&url.hosts().join(","));
        let config = &mut this.config;
        let number = |name| url.parse_parameter::<usize>(name);
        let duration = |name| {
            let millis = url.parse_parameter::<u64>(name)?;
            Ok::<_, Error>(millis.map(Duration::from_millis))
        };
        let set = |to: &mut Duration, name| -> Result<()> {
            *to = duration(name)?.unwrap_or(*to);
            Ok(())
        };
        if let Some(id) = url.parameter("client_id") {
            id.clone_into(&mut config.client_id);
        }
        set(&mut config.connect_timeout, "connect_timeout_ms")?;
        set(&mut config.delivery_timeout, "delivery_timeout_ms")?;
        set(&mut config.linger, "linger_ms")?;
        set(&mut config.transaction_timeout, "transaction_timeout_ms")?;
        config.batch_size = number("batch_size")?.unwrap_or(config.batch_size);
        config.largest_message = number("largest_message")?.unwrap_or(config.largest_message);
        config.queue_messages = number("queue_messages")?.unwrap_or(config.queue_messages);
        config.queue_bytes = number("queue_bytes")?.unwrap_or(config.queue_bytes);
        config.transactional_id = url.parameter("transactional_id").map(str::to_owned);
        let compressions = [
            ("none", Compression::None),
            ("gzip", Compression::Gzip),
            ("snappy", Compression::Snappy),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd),
        ];
        config.compression = choice(url, "compression", &compressions)?.unwrap_or_default();
        let partitioners = [
            ("murmur2", Partitioner::Murmur2),
            ("fnv1a", Partitioner::Fnv1a),
            ("crc32", Partitioner::Crc32),
        ];
        config.partitioner = choice(url, "partitioner", &partitioners)?.unwrap_or_default();
        if let Some(partitions) = url.parse_parameter("create_partitions")? {
            let mut topics = NewTopics::new(partitions);
            if let Some(replication) = url.parse_parameter("create_replication")? {
                topics = topics.replication(replication);
            }
            config.create_topics = Some(topics);
        } else if url.parameter("create_replication").is_some() {
            return Err(bad(
                "the URL has `create_replication` without `create_partitions`; give both to have \
                 topics created, or neither",
            ));
        }
        config.security = security_of(url)?;
        Ok(this)
    }
}

pub(crate) const PARAMETERS: &[&str] = &[
    "client_id",
    "connect_timeout_ms",
    "delivery_timeout_ms",
    "linger_ms",
    "batch_size",
    "compression",
    "partitioner",
    "largest_message",
    "queue_messages",
    "queue_bytes",
    "transactional_id",
    "transaction_timeout_ms",
    "create_partitions",
    "create_replication",
    "tls",
    "ca_file",
    "certificate_file",
    "key_file",
    "sasl",
];

fn security_of(url: &DriverUrl) -> Result<Security> {
    let bad = |what: &str| Error::invalid_config(what).driver(DRIVER);
    let wants_tls = choice(url, "tls", &[("true", true), ("false", false)])?.unwrap_or_default();
    let mut tls = Tls::new();
    if let Some(path) = url.parameter("ca_file") {
        tls = tls.ca_file(path);
    }
    match (url.parameter("certificate_file"), url.parameter("key_file")) {
        (Some(certificate), Some(key)) => tls = tls.certificate_files(certificate, key),
        (None, None) => {}
        _ => {
            return Err(bad(
                "the URL has only one of `certificate_file` and `key_file`; give both or neither",
            ));
        }
    }
    let names_files = ["ca_file", "certificate_file"];
    if !wants_tls && names_files.iter().any(|name| url.parameter(name).is_some()) {
        return Err(bad(
            "the URL names files for TLS but does not turn it on; add `tls=true`",
        ));
    }
    type Make = fn(String, String) -> Sasl;
    let mechanisms: [(&str, Make); 3] = [
        ("plain", Sasl::plain),
        ("scram-sha-256", Sasl::scram_sha_256),
        ("scram-sha-512", Sasl::scram_sha_512),
    ];
    let sasl = match (
        choice(url, "sasl", &mechanisms)?,
        url.user(),
        url.password(),
    ) {
        (None, None, _) => None,
        (Some(make), Some(user), Some(password)) => {
            Some(make(user.to_owned(), password.to_owned()))
        }
        (None, Some(_), _) => {
            return Err(bad(
                "the URL has a user but does not say how to log in; add `sasl=scram-sha-512`, \
                 `sasl=scram-sha-256` or `sasl=plain`",
            ));
        }
        (Some(_), ..) => {
            return Err(bad(
                "the URL has `sasl` without user and password; write them as \
                 `kafka://user:password@host:9092`",
            ));
        }
    };
    Ok(Security {
        tls: wants_tls.then_some(tls),
        sasl,
    })
}

fn choice<T: Copy>(url: &DriverUrl, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = url.parameter(name) else {
        return Ok(None);
    };
    match choices.iter().find(|(known, _)| *known == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Err(Error::invalid_config(format!(
                "the URL parameter `{name}` is `{text}`; use {}",
                names.join(" or ")
            ))
            .driver(DRIVER))
        }
    }
}
