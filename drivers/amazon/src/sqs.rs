//! The SQS driver.

use std::fmt;
use std::sync::Arc;

use aws_sdk_sqs::Client;
use streams_core::{
    Capabilities, Driver, DriverUrl, ErrorKind, IntoStreamName, OpenDriver, Reader, Result, Writer,
};
use tokio::sync::Semaphore;

use crate::config::{Config, SqsBuilder};
use crate::queues::{NewQueues, Queues};
use crate::reader::SqsReader;
use crate::url;
use crate::writer::BatchWriter;

/// The SQS driver. Cheap to clone; clones share connections.
///
/// ```no_run
/// use streams_amazon::Sqs;
/// use streams_core::Bus;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let sqs = Sqs::builder().region("eu-west-1").build().await?;
/// let bus = Bus::new(sqs);
/// # let _ = bus;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sqs {
    pub(crate) inner: Arc<Inner>,
}

/// What reader and writers share.
pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) config: Arc<Config>,
    pub(crate) capabilities: Capabilities,
    pub(crate) queues: Queues,
    /// For each request that writes.
    pub(crate) sending: Semaphore,
}

impl Sqs {
    /// Starts a driver.
    pub fn builder() -> SqsBuilder {
        SqsBuilder::new()
    }

    pub(crate) fn with(client: Client, config: Config) -> Self {
        let config = Arc::new(config);
        Self {
            inner: Arc::new(Inner {
                capabilities: config.capabilities(),
                queues: Queues::new(client.clone(), config.clone()),
                sending: config.limits.permits(),
                client,
                config,
            }),
        }
    }

    /// What the driver can do with these settings.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Asks SQS for something, to see that it answers and takes the credentials. What they may do
    /// shows only when it is done.
    ///
    /// # Errors
    /// - [`Permission`](ErrorKind::Permission) when there are no credentials, or AWS refuses them.
    /// - [`Unavailable`](ErrorKind::Unavailable) and [`Timeout`](ErrorKind::Timeout) when it does not
    ///   answer.
    pub async fn connect(&self) -> Result<()> {
        match self.inner.queues.find("streams-is-there").await {
            Err(problem) if problem.kind != ErrorKind::NotFound && !problem.is_denied() => {
                Err(problem.error("connect"))
            }
            _ => Ok(()),
        }
    }

    /// Creates a stream's queue, and that of its dead letters; `false` says that it was there, with
    /// whatever settings it has.
    ///
    /// # Errors
    /// - [`InvalidMessage`](ErrorKind::InvalidMessage) for a name no queue can have.
    /// - [`InvalidConfig`](ErrorKind::InvalidConfig) for settings SQS refuses.
    /// - [`Permission`](ErrorKind::Permission) and [`Unavailable`](ErrorKind::Unavailable) as SQS
    ///   answers. For a minute after a queue was deleted, its name is not free.
    ///
    /// ```no_run
    /// # use streams_amazon::{NewQueues, Sqs};
    /// # async fn create(sqs: Sqs) -> streams_core::Result<()> {
    /// sqs.create_queue("user.created", &NewQueues::new().max_receives(50)).await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_queue(
        &self,
        stream: impl IntoStreamName,
        settings: &NewQueues,
    ) -> Result<bool> {
        let stream = stream.into_stream_name()?;
        settings.check()?;
        let created = self.inner.queues.create(&stream, settings).await;
        created.map_err(|problem| problem.error("create_queue").with("stream", &stream))
    }

    /// Deletes a stream's queue and all its messages, but not that of its dead letters; `false` says
    /// that there was none.
    ///
    /// # Errors
    /// As [`create_queue`](Sqs::create_queue).
    pub async fn delete_queue(&self, stream: impl IntoStreamName) -> Result<bool> {
        let stream = stream.into_stream_name()?;
        let deleted = self.inner.queues.delete(&stream).await;
        deleted.map_err(|problem| problem.error("delete_queue").with("stream", &stream))
    }
}

impl Driver for Sqs {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(SqsReader::new(self.inner.clone()))
    }

    /// Each writer is closed on its own; the connections stay until the driver is dropped.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(BatchWriter::new(self.inner.clone()))
    }
}

impl OpenDriver for Sqs {
    const SCHEMES: &'static [&'static str] = &["sqs"];
    const PARAMETERS: &'static [&'static str] = url::PARAMETERS;

    async fn open(url: &DriverUrl) -> Result<Self> {
        SqsBuilder::from_url(url)?.build().await
    }
}

impl fmt::Debug for Sqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqs")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
