//! The SNS driver: topics that are written to and, with the feature `sqs`, queues subscribed to them
//! that are read.

#[cfg(feature = "sqs")]
mod chain;
mod config;
#[cfg(not(feature = "sqs"))]
mod no_reader;
mod publish;
#[cfg(feature = "sqs")]
mod reader;
mod topics;
mod url;

use std::fmt;
use std::sync::Arc;

use aws_sdk_sns::Client;
#[cfg(feature = "sqs")]
pub use chain::NewSubscription;
use config::Config;
pub use config::SnsBuilder;
#[cfg(feature = "sqs")]
pub use reader::SnsOptions;
use streams_core::{
    Capabilities, Driver, DriverUrl, ErrorKind, IntoStreamName, OpenDriver, Reader, Result, Writer,
};
use tokio::sync::Semaphore;
use topics::Topics;

#[cfg(feature = "sqs")]
use crate::Sqs;
use crate::writer::BatchWriter;

pub(crate) const DRIVER: &str = "sns";

/// The SNS driver: writes to topics, and reads from queues that are subscribed to them. Cheap to clone;
/// clones share connections.
///
/// ```no_run
/// use streams_amazon::{NewQueues, Sns, Sqs};
/// use streams_core::Bus;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let sns = Sns::builder()
///     .region("eu-west-1")
///     .queues(Sqs::builder().create_queues(NewQueues::new()))
///     .build()
///     .await?;
/// let bus = Bus::new(sns);
/// # let _ = bus;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sns {
    inner: Arc<Inner>,
}

/// What reader and writers share.
pub(crate) struct Inner {
    client: Client,
    config: Config,
    capabilities: Capabilities,
    topics: Topics,
    /// For each request that writes.
    sending: Semaphore,
    /// The queues that are read.
    #[cfg(feature = "sqs")]
    sqs: Sqs,
}

impl Sns {
    /// Starts a driver.
    pub fn builder() -> SnsBuilder {
        SnsBuilder::new()
    }

    fn with(client: Client, config: Config, #[cfg(feature = "sqs")] sqs: Sqs) -> Self {
        #[cfg(feature = "sqs")]
        let capabilities = reader::capabilities(&config, sqs.capabilities());
        #[cfg(not(feature = "sqs"))]
        let capabilities = config.capabilities();
        Self {
            inner: Arc::new(Inner {
                topics: Topics::new(client.clone(), &config),
                sending: config.limits.permits(),
                client,
                config,
                capabilities,
                #[cfg(feature = "sqs")]
                sqs,
            }),
        }
    }

    /// What the driver can do with these settings.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Asks SNS for something, to see that it answers and takes the credentials. What they may do
    /// shows only when it is done.
    ///
    /// # Errors
    /// - [`Permission`](ErrorKind::Permission) when there are no credentials, or AWS refuses them.
    /// - [`Unavailable`](ErrorKind::Unavailable) and [`Timeout`](ErrorKind::Timeout) when it does not
    ///   answer.
    pub async fn connect(&self) -> Result<()> {
        match self.inner.topics.list().await {
            Err(problem) if !problem.is_denied() => Err(problem.error("connect").driver(DRIVER)),
            _ => Ok(()),
        }
    }

    /// Creates a stream's topic, unless there is one.
    ///
    /// # Errors
    /// - [`InvalidMessage`](ErrorKind::InvalidMessage) for a name no topic can have.
    /// - [`Permission`](ErrorKind::Permission) and [`Unavailable`](ErrorKind::Unavailable) as SNS
    ///   answers.
    pub async fn create_topic(&self, stream: impl IntoStreamName) -> Result<()> {
        let stream = stream.into_stream_name()?;
        let created = self.inner.topics.create(&stream).await;
        created.map(drop).map_err(|problem| {
            let error = problem.error("create_topic").driver(DRIVER);
            error.with("stream", &stream)
        })
    }

    /// Deletes a stream's topic and its subscriptions, but no queue. That there was none is no error.
    ///
    /// # Errors
    /// As [`create_topic`](Sns::create_topic).
    pub async fn delete_topic(&self, stream: impl IntoStreamName) -> Result<()> {
        let stream = stream.into_stream_name()?;
        match self.inner.topics.delete(&stream).await {
            Err(problem) if problem.kind != ErrorKind::NotFound => {
                let error = problem.error("delete_topic").driver(DRIVER);
                Err(error.with("stream", &stream))
            }
            _ => Ok(()),
        }
    }
}

impl Driver for Sns {
    /// Reads the queues that are subscribed to topics; without the feature `sqs` it refuses to.
    fn reader(&self) -> Arc<dyn Reader> {
        #[cfg(feature = "sqs")]
        return Arc::new(reader::SnsReader::new(self.inner.clone()));
        #[cfg(not(feature = "sqs"))]
        Arc::new(no_reader::NoReader::new(self.inner.clone()))
    }

    /// Each writer is closed on its own; the connections stay until the driver is dropped.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(BatchWriter::new(self.inner.clone()))
    }
}

impl OpenDriver for Sns {
    const SCHEMES: &'static [&'static str] = &["sns"];
    const PARAMETERS: &'static [&'static str] = url::PARAMETERS;

    async fn open(url: &DriverUrl) -> Result<Self> {
        SnsBuilder::from_url(url)?.build().await
    }
}

impl fmt::Debug for Sns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Sns");
        all.field("config", &self.inner.config);
        #[cfg(feature = "sqs")]
        all.field("sqs", &self.inner.sqs);
        all.finish_non_exhaustive()
    }
}
