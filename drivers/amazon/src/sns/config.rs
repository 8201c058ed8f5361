//! Settings of the driver.

use std::time::Duration;

use aws_sdk_sns::Client;
#[cfg(not(feature = "sqs"))]
use streams_core::Order;
use streams_core::{Capabilities, Error, Result};

use super::{DRIVER, Sns};
#[cfg(feature = "sqs")]
use crate::SqsBuilder;
use crate::connection::Connection;
use crate::limits::Limits;
use crate::message::Wire;

/// The most headers that fit as attributes beside what is of the format.
const MOST_FILTER_HEADERS: usize = 3;

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) account_id: Option<String>,
    pub(crate) fifo: bool,
    pub(crate) create_topics: bool,
    pub(crate) limits: Limits,
    pub(crate) wire: Wire,
    pub(crate) region: String,
}

impl Config {
    /// Of writing alone.
    #[cfg(not(feature = "sqs"))]
    pub(crate) fn capabilities(&self) -> Capabilities {
        let all = Capabilities::none(DRIVER);
        self.of_writing(if self.fifo {
            all.order(Order::PerKey)
        } else {
            all
        })
    }

    pub(crate) fn of_writing(&self, all: Capabilities) -> Capabilities {
        all.creates_streams(self.create_topics)
            .largest_message(Some(self.limits.largest_message()))
            .binary_headers(true)
    }
}

/// Builds an [`Sns`]; made by [`Sns::builder`].
///
/// ```no_run
/// use streams_amazon::Sns;
///
/// # async fn build() -> streams_core::Result<()> {
/// let sns = Sns::builder()
///     .region("eu-west-1")
///     .create_topics(true)
///     .filter_headers(["tenant"])
///     .build()
///     .await?;
/// # let _ = sns;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct SnsBuilder {
    client: Option<Client>,
    pub(super) connection: Connection,
    pub(super) account_id: Option<String>,
    pub(super) fifo: bool,
    pub(super) create_topics: bool,
    pub(super) limits: Limits,
    pub(super) filter_headers: Vec<String>,
    #[cfg(feature = "sqs")]
    pub(super) queues: SqsBuilder,
}

impl SnsBuilder {
    pub(crate) fn new() -> Self {
        Self {
            client: None,
            connection: Connection::new(),
            account_id: None,
            fifo: false,
            create_topics: false,
            limits: Limits::new(),
            filter_headers: Vec::new(),
            #[cfg(feature = "sqs")]
            queues: SqsBuilder::new(),
        }
    }

    /// Sets the region; the default is that of the environment or the profile.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.connection.region = Some(region.into());
        self
    }

    /// Sets the endpoint: a VPC endpoint, or a local server that stands in for SNS. Queues are read
    /// there too, unless [`queues`](Self::queues) has an endpoint of its own.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.connection.endpoint = Some(url.into());
        self
    }

    /// Sets an access key of its own, as local servers want some. Without it, credentials come from
    /// the standard chain: environment, profile, web identity, container, instance.
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.connection.access_key = Some((id.into(), secret.into()));
        self
    }

    /// Sets the client, configured by yourself. It brings region, endpoint and credentials. That of
    /// the queues is its own: give [`queues`](Self::queues) one too, or its settings.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Sets the account that owns the topics. Without it, and where topics are not created, the first
    /// topic that SNS lists tells it.
    pub fn account_id(mut self, id: impl Into<String>) -> Self {
        self.account_id = Some(id.into());
        self
    }

    /// Makes the topics of all streams FIFO, and the queues too: the messages of a key stay in order,
    /// and none is written twice within five minutes. `.fifo` is added to their names. Without this,
    /// only those streams are whose name ends in `.fifo`, and order is not among the
    /// [`Capabilities`].
    pub fn fifo(mut self, fifo: bool) -> Self {
        self.fifo = fifo;
        self
    }

    /// Creates topics that do not exist when they are written to. Without this they are not found. A
    /// driver that [creates queues](Self::queues) does so in any case.
    pub fn create_topics(mut self, create: bool) -> Self {
        self.create_topics = create;
        self
    }

    /// Sets how queues are read. With
    /// [`create_queues`](SqsBuilder::create_queues), a queue that is read and does not exist is
    /// created and subscribed to the topic, and topics are created. Region, endpoint and credentials
    /// are those of SNS, unless some are set here.
    #[cfg(feature = "sqs")]
    pub fn queues(mut self, queues: SqsBuilder) -> Self {
        self.queues = queues;
        self
    }

    /// Names headers that filter policies look at, three at most: they are attributes of their own
    /// in any case. Other headers are where there is room, and are packed into one attribute
    /// otherwise, which no filter sees into.
    pub fn filter_headers<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.filter_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how many requests writers make at the same time. The default is 16.
    pub fn send_concurrency(mut self, requests: usize) -> Self {
        self.limits.send_concurrency = requests;
        self
    }

    /// Sets what a request with a batch may have in bytes, messages and attributes together. The
    /// default is 256 KiB.
    pub fn largest_request(mut self, bytes: usize) -> Self {
        self.limits.largest_request = bytes;
        self
    }

    /// Sets how many bytes of data a message may have. The default is what always fits, as data that
    /// is not text grows by a third: 180 KiB of 256. For text it may be raised to nearly the
    /// [largest request](Self::largest_request).
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.limits.largest_message = Some(bytes);
        self
    }

    /// Sets how long a request may take before it is tried again. The default is 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.connection.request_timeout = timeout;
        self
    }

    /// The driver. Nothing is sent yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be.
    pub async fn build(self) -> Result<Sns> {
        self.check().map_err(|error| error.driver(DRIVER))?;
        let client = match self.client {
            Some(client) => client,
            None => {
                let shared = self.connection.load().await;
                Client::new(&shared.map_err(|error| error.driver(DRIVER))?)
            }
        };
        let create_topics = self.create_topics;
        #[cfg(feature = "sqs")]
        let create_topics = create_topics || self.queues.config.create_queues.is_some();
        let fifo = self.fifo;
        #[cfg(feature = "sqs")]
        let fifo = fifo || self.queues.config.fifo;
        let region = client.config().region().map(ToString::to_string);
        let config = Config {
            account_id: self.account_id,
            fifo,
            create_topics,
            limits: self.limits,
            wire: Wire::sns(self.filter_headers),
            region: region.unwrap_or_default(),
        };
        #[cfg(feature = "sqs")]
        let sqs = {
            let queues = self.queues.connected_as(&self.connection);
            queues.fifo(fifo).build().await?
        };
        Ok(Sns::with(
            client,
            config,
            #[cfg(feature = "sqs")]
            sqs,
        ))
    }

    fn check(&self) -> Result<()> {
        if self.client.is_some() && self.connection.is_set() {
            return Err(Error::invalid_config(
                "the client brings region, endpoint and credentials; leave those out",
            ));
        }
        if self.filter_headers.len() > MOST_FILTER_HEADERS {
            return Err(Error::invalid_config(
                "there are more than three filter headers, which is more than always fits; name \
                 those that filter policies look at most",
            ));
        }
        self.limits.check()?;
        self.connection.check()
    }
}

#[cfg(test)]
mod tests {
    use streams_core::ErrorKind;

    use super::*;

    fn local() -> SnsBuilder {
        SnsBuilder::new()
            .region("eu-west-1")
            .access_key("id", "s3cret")
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused() {
        for builder in [
            local().send_concurrency(0),
            local().largest_request(2 << 20),
            local().largest_message(0),
            local().request_timeout(Duration::ZERO),
            local().filter_headers(["a", "b", "c", "d"]),
        ] {
            let error = builder.clone().build().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{builder:?}");
            assert_eq!(error.failed_driver(), Some("sns"));
        }
        assert!(local().build().await.is_ok());
    }

    #[tokio::test]
    async fn secrets_do_not_show() {
        let builder = local();
        assert!(!format!("{builder:?}").contains("s3cret"));
        let sns = builder.build().await.unwrap();
        assert!(!format!("{sns:?}").contains("s3cret"));
    }
}
