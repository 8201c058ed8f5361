#![doc = include_str!("../README.md")]

mod admin;
mod blocking;
mod callbacks;
mod check;
mod client;
mod commits;
mod config;
mod consumer;
mod context;
mod control;
mod deliveries;
mod error;
mod gate;
mod message;
pub mod metrics;
mod options;
mod partitions;
mod properties;
mod publisher;
mod reader;
mod record;
mod security;
mod shared;
mod start;
mod targets;
mod topics;
mod transactions;
mod url;
mod writer;

use std::fmt;
use std::sync::Arc;

use admin::Admin;
use config::Config;
pub use config::{Compression, KafkaBuilder, Partitioner};
pub use control::{KafkaControl, Progress, SeekTo};
pub use options::KafkaOptions;
use reader::KafkaReader;
pub use security::{Sasl, Tls, Token};
use streams_core::{
    Capabilities, Driver, DriverUrl, IntoStreamName, OpenDriver, Reader, Result, Writer,
};
use targets::Targets;
pub use topics::NewTopics;
use topics::Topics;
use writer::KafkaWriter;

/// The Kafka driver. Cheap to clone; clones share connections.
///
/// ```no_run
/// use streams_core::Bus;
/// use streams_kafka::Kafka;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let kafka = Kafka::builder("kafka-1:9092,kafka-2:9092").build()?;
/// println!("{} partitions", kafka.partitions("user.created").await?);
/// let bus = Bus::new(kafka);
/// # let _ = bus;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Kafka {
    inner: Arc<Inner>,
}

/// What reader and writers share.
pub(crate) struct Inner {
    pub(crate) config: Arc<Config>,
    pub(crate) capabilities: Capabilities,
    pub(crate) admin: Arc<Admin>,
    pub(crate) topics: Topics,
    pub(crate) targets: Targets,
}

impl Kafka {
    /// Starts a driver for the cluster that these brokers belong to: `host:port`, several separated
    /// by commas. One that answers is enough to find the others.
    pub fn builder(brokers: impl AsRef<str>) -> KafkaBuilder {
        KafkaBuilder::new(brokers.as_ref())
    }

    pub(crate) fn with(config: Config) -> Self {
        let config = Arc::new(config);
        let admin = Arc::new(Admin::new(config.clone()));
        let topics = Topics::new(config.clone(), admin.clone());
        Self {
            inner: Arc::new(Inner {
                capabilities: config.capabilities(),
                targets: Targets::new(config.clone(), topics.clone()),
                config,
                admin,
                topics,
            }),
        }
    }

    /// Creates a topic; `false` says that it was there, as it may be. It can be used when this
    /// returns.
    ///
    /// # Errors
    /// - [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a name no topic can have.
    /// - [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for settings the brokers refuse.
    /// - [`Unsupported`](streams_core::ErrorKind::Unsupported) with [`Sasl::oauth_bearer`].
    /// - [`Permission`](streams_core::ErrorKind::Permission) and
    ///   [`Unavailable`](streams_core::ErrorKind::Unavailable) as the brokers answer.
    ///
    /// ```no_run
    /// # use streams_kafka::{Kafka, NewTopics};
    /// # async fn create(kafka: Kafka) -> streams_core::Result<()> {
    /// let settings = NewTopics::new(12).config("retention.ms", "86400000");
    /// kafka.create_topic("user.created", &settings).await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_topic(
        &self,
        topic: impl IntoStreamName,
        settings: &NewTopics,
    ) -> Result<bool> {
        const DOING: &str = "create_topic";
        let topic = topic.into_stream_name()?;
        topics::check_name(&topic)?;
        settings.check()?;
        let Inner { admin, .. } = &*self.inner;
        // Tells at once when the brokers refuse the client.
        let created = match admin.partitions(&topic).await {
            Ok(_) => Ok(false),
            Err(admin::Problem::Missing) => admin.create(&topic, settings).await,
            Err(problem) => Err(problem),
        };
        created.map_err(|problem| problem.error(DOING).with("topic", &topic))
    }

    /// Deletes a topic and all its messages; `false` says that there was none. Brokers may take a moment to
    /// learn that it is gone.
    ///
    /// # Errors
    /// As [`create_topic`](Kafka::create_topic).
    pub async fn delete_topic(&self, topic: impl IntoStreamName) -> Result<bool> {
        let topic = topic.into_stream_name()?;
        topics::check_name(&topic)?;
        let deleted = self.inner.admin.delete(&topic).await;
        self.inner.targets.forget(&topic);
        deleted.map_err(|problem| problem.error("delete_topic").with("topic", &topic))
    }

    /// Connects to the brokers, so that wrong addresses and credentials show before the first message.
    /// Nobody has to: whatever needs a connection opens it. `Ok` at once where one was open before.
    ///
    /// # Errors
    /// - [`Unavailable`](streams_core::ErrorKind::Unavailable) when no broker answers in the
    ///   [`connect_timeout`](KafkaBuilder::connect_timeout).
    /// - [`Permission`](streams_core::ErrorKind::Permission) when they refuse the credentials.
    pub async fn connect(&self) -> Result<()> {
        let connected = self.inner.admin.connect().await;
        connected.map_err(|problem| problem.error("connect"))
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// [`NotFound`](streams_core::ErrorKind::NotFound) without such a topic, and as
    /// [`create_topic`](Kafka::create_topic).
    pub async fn partitions(&self, topic: impl IntoStreamName) -> Result<usize> {
        let topic = topic.into_stream_name()?;
        topics::check_name(&topic)?;
        let partitions = self.inner.admin.partitions(&topic).await;
        partitions.map_err(|problem| problem.error("partitions").with("topic", &topic))
    }

    /// The offset of the oldest record a partition keeps, and that of the next to be written to it.
    /// They are equal where it keeps nothing.
    ///
    /// # Errors
    /// [`NotFound`](streams_core::ErrorKind::NotFound) without such a partition, and as
    /// [`create_topic`](Kafka::create_topic).
    pub async fn watermarks(
        &self,
        topic: impl IntoStreamName,
        partition: u32,
    ) -> Result<(u64, u64)> {
        let topic = topic.into_stream_name()?;
        topics::check_name(&topic)?;
        // One past the range there is none of either.
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let marks = self.inner.admin.watermarks(&topic, number).await;
        let (low, high) = marks.map_err(|problem| {
            let error = problem.error("watermarks").with("topic", &topic);
            error.with("partition", partition)
        })?;
        Ok((low.max(0).cast_unsigned(), high.max(0).cast_unsigned()))
    }

    /// For each partition of a topic the offset with which a group goes on; `None` where it has
    /// committed nothing.
    ///
    /// # Errors
    /// [`NotFound`](streams_core::ErrorKind::NotFound) without such a topic, and as
    /// [`create_topic`](Kafka::create_topic).
    pub async fn committed(
        &self,
        group: &str,
        topic: impl IntoStreamName,
    ) -> Result<Vec<Option<u64>>> {
        let topic = topic.into_stream_name()?;
        topics::check_name(&topic)?;
        let committed = self.inner.admin.committed(group, &topic).await;
        let offsets = committed.map_err(|problem| {
            let error = problem.error("committed").with("topic", &topic);
            error.with("group", group)
        })?;
        let offset = |offset: i64| u64::try_from(offset).ok();
        Ok(offsets
            .into_iter()
            .map(|one| one.and_then(offset))
            .collect())
    }
}

impl Driver for Kafka {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(KafkaReader::new(self.inner.clone()))
    }

    /// Each writer is closed on its own; the connections stay until the driver is dropped.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(KafkaWriter::new(self.inner.clone()))
    }
}

impl OpenDriver for Kafka {
    const SCHEMES: &'static [&'static str] = &["kafka"];
    const PARAMETERS: &'static [&'static str] = url::PARAMETERS;

    async fn open(url: &DriverUrl) -> Result<Self> {
        KafkaBuilder::from_url(url)?.build()
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
