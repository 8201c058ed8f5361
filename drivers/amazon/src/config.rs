//! Settings of the driver.

use std::fmt;
use std::time::Duration;

use aws_sdk_sqs::Client;
use streams_core::{Capabilities, Error, Order, Result};

use crate::connection::Connection;
use crate::limits::Limits;
use crate::{NewQueues, Sqs};

pub(crate) const DRIVER: &str = "sqs";

/// The longest that SQS keeps a received message from others, counted from when it was received.
pub(crate) const LONGEST_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);
/// What of it is left for delays when a message was handled for an hour.
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(11 * 60 * 60);
/// The longest that SQS waits for messages.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) account_id: Option<String>,
    pub(crate) fifo: bool,
    pub(crate) visibility_timeout: Duration,
    pub(crate) wait: Duration,
    pub(crate) receive_concurrency: usize,
    pub(crate) limits: Limits,
    pub(crate) request_timeout: Duration,
    pub(crate) create_queues: Option<NewQueues>,
}

impl Config {
    pub(crate) fn capabilities(&self) -> Capabilities {
        let all = Capabilities::none(DRIVER)
            .shares_without_group(true)
            .durable(true)
            .keeps_before_group(true)
            .attempts(true)
            .leases(true)
            .delayed_redelivery(Some(LONGEST_RETRY_DELAY))
            .creates_streams(self.create_queues.is_some())
            .largest_message(Some(self.limits.largest_message()))
            .binary_headers(true);
        if self.fifo {
            all.order(Order::PerKey)
        } else {
            all.delay(Some(Duration::MAX))
        }
    }
}

/// Builds a [`Sqs`]; made by [`Sqs::builder`].
///
/// ```no_run
/// use std::time::Duration;
/// use streams_amazon::{NewQueues, Sqs};
///
/// # async fn build() -> streams_core::Result<()> {
/// let sqs = Sqs::builder()
///     .region("eu-west-1")
///     .visibility_timeout(Duration::from_secs(60))
///     .create_queues(NewQueues::new())
///     .build()
///     .await?;
/// # let _ = sqs;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct SqsBuilder {
    client: Option<Client>,
    pub(crate) connection: Connection,
    pub(crate) config: Config,
}

impl SqsBuilder {
    pub(crate) fn new() -> Self {
        Self {
            client: None,
            connection: Connection::new(),
            config: Config {
                account_id: None,
                fifo: false,
                visibility_timeout: Duration::from_secs(30),
                wait: LONGEST_WAIT,
                receive_concurrency: 8,
                limits: Limits::new(),
                request_timeout: Duration::ZERO,
                create_queues: None,
            },
        }
    }

    /// Sets the region; the default is that of the environment or the profile.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.connection.region = Some(region.into());
        self
    }

    /// Sets the endpoint: a VPC endpoint, or a local server that stands in for SQS.
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

    /// Sets the client, configured by yourself. It brings region, endpoint and credentials.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Sets the account that owns the queues, where it is not the caller's.
    pub fn account_id(mut self, id: impl Into<String>) -> Self {
        self.config.account_id = Some(id.into());
        self
    }

    /// Makes the queues of all streams FIFO: the messages of a key stay in order, and none is written
    /// twice within five minutes. `.fifo` is added to their names. Without this, only those streams are
    /// whose name ends in `.fifo`, and order is not among the [`Capabilities`].
    pub fn fifo(mut self, fifo: bool) -> Self {
        self.config.fifo = fifo;
        self
    }

    /// Sets how long a received message is kept from other readers: its lease. It is extended while
    /// the handler runs. The default is 30 s; whole seconds, up to 12 hours.
    pub fn visibility_timeout(mut self, timeout: Duration) -> Self {
        self.config.visibility_timeout = timeout;
        self
    }

    /// Sets how long a request waits for messages. The default is the longest, 20 s: an idle reader
    /// makes three requests a minute.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.config.wait = wait;
        self
    }

    /// Sets how many requests for messages a subscription makes at the same time while it finds the
    /// queue full; an idle one makes one. The default is 8.
    pub fn receive_concurrency(mut self, requests: usize) -> Self {
        self.config.receive_concurrency = requests;
        self
    }

    /// Sets how many requests writers make at the same time. The default is 16.
    pub fn send_concurrency(mut self, requests: usize) -> Self {
        self.config.limits.send_concurrency = requests;
        self
    }

    /// Sets what a request with a batch may have in bytes, bodies and attributes together. The
    /// default is 256 KiB; AWS takes up to 1 MiB since 2025, if the queue is set to.
    pub fn largest_request(mut self, bytes: usize) -> Self {
        self.config.limits.largest_request = bytes;
        self
    }

    /// Sets how many bytes of data a message may have. The default is what always fits, as data that
    /// is not text grows by a third: 180 KiB of 256. For text it may be raised to nearly the
    /// [largest request](Self::largest_request).
    pub fn largest_message(mut self, bytes: usize) -> Self {
        self.config.limits.largest_message = Some(bytes);
        self
    }

    /// Sets how long a request may take, besides waiting for messages, before it is tried again. The
    /// default is 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.connection.request_timeout = timeout;
        self
    }

    /// Creates queues that do not exist when they are written to or read, with these settings. Without
    /// this they are not found.
    pub fn create_queues(mut self, settings: NewQueues) -> Self {
        self.config.create_queues = Some(settings);
        self
    }

    /// The driver. Nothing is sent yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be.
    pub async fn build(mut self) -> Result<Sqs> {
        self.check().map_err(|error| error.driver(DRIVER))?;
        self.config.request_timeout = self.connection.request_timeout;
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let shared = self.connection.load().await;
                Client::new(&shared.map_err(|error| error.driver(DRIVER))?)
            }
        };
        Ok(Sqs::with(client, self.config))
    }

    fn check(&self) -> Result<()> {
        let config = &self.config;
        if self.client.is_some() && self.connection.is_set() {
            return bad("the client brings region, endpoint and credentials; leave those out");
        }
        check_visibility(config.visibility_timeout)?;
        check_wait(config.wait)?;
        check_concurrency(config.receive_concurrency)?;
        config.limits.check()?;
        self.connection.check()?;
        match &config.create_queues {
            Some(settings) => settings.check(),
            None => Ok(()),
        }
    }

    /// What is not set is as the other connection has it.
    #[cfg(feature = "sns")]
    pub(crate) fn connected_as(mut self, other: &Connection) -> Self {
        if self.client.is_none() && !self.connection.is_set() {
            self.connection = other.clone();
        }
        self
    }
}

impl fmt::Debug for SqsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsBuilder")
            .field("connection", &self.connection)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn bad(message: &str) -> Result<()> {
    Err(Error::invalid_config(message).driver(DRIVER))
}

pub(crate) fn check_visibility(timeout: Duration) -> Result<()> {
    let whole = timeout.subsec_nanos() == 0;
    if !whole || timeout.is_zero() || timeout > LONGEST_VISIBILITY {
        return bad("the visibility timeout must be whole seconds, from 1 s to 12 hours");
    }
    Ok(())
}

pub(crate) fn check_wait(wait: Duration) -> Result<()> {
    if wait.subsec_nanos() != 0 || wait.is_zero() || wait > LONGEST_WAIT {
        return bad(
            "the wait must be whole seconds, from 1 s to 20 s; less would cost a request each time",
        );
    }
    Ok(())
}

pub(crate) fn check_concurrency(requests: usize) -> Result<()> {
    if !(1..=100).contains(&requests) {
        return bad("the receive concurrency is out of range; use 1 to 100");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use streams_core::ErrorKind;

    use super::*;

    fn local() -> SqsBuilder {
        SqsBuilder::new()
            .region("eu-west-1")
            .access_key("id", "s3cret")
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused() {
        let second = Duration::from_secs(1);
        for builder in [
            local().visibility_timeout(Duration::from_millis(1500)),
            local().visibility_timeout(Duration::ZERO),
            local().visibility_timeout(LONGEST_VISIBILITY + second),
            local().wait(LONGEST_WAIT + second),
            local().wait(Duration::from_millis(100)),
            local().receive_concurrency(0),
            local().send_concurrency(0),
            local().largest_request(2 << 20),
            local().largest_message(0),
            local().largest_message((256 << 10) + 1),
            local().request_timeout(Duration::ZERO),
            local().create_queues(NewQueues::new().max_receives(0)),
        ] {
            let error = builder.clone().build().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{builder:?}");
        }
        assert!(local().build().await.is_ok());
    }

    #[tokio::test]
    async fn secrets_do_not_show() {
        let builder = local();
        assert!(!format!("{builder:?}").contains("s3cret"));
        let sqs = builder.build().await.unwrap();
        assert!(!format!("{sqs:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn order_and_delays_are_those_of_the_kind_of_queue() {
        let standard = local().build().await.unwrap();
        let capabilities = standard.capabilities();
        assert_eq!(capabilities.order, Order::None);
        assert_eq!(capabilities.delay, Some(Duration::MAX));
        assert_eq!(capabilities.largest_message, Some(180 << 10));
        let fifo = local().fifo(true).build().await.unwrap();
        assert_eq!(fifo.capabilities().order, Order::PerKey);
        assert_eq!(fifo.capabilities().delay, None);
    }
}
