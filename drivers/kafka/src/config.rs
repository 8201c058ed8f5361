//! Settings of the driver.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use streams_core::{Acknowledgement, Capabilities, Order, Result, StartPositions};

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
    pub(crate) config: Config,
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
}
