//! Settings of the connection.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Credentials, Region};
use streams_core::{Error, Result};

use crate::clock::Clock;
use crate::{DRIVER, DynamoDb};

/// Builds a [`DynamoDb`]; made by [`DynamoDb::builder`].
#[derive(Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct DynamoDbBuilder {
    clients: Option<(Client, aws_sdk_dynamodbstreams::Client)>,
    region: Option<String>,
    endpoint: Option<String>,
    access_key: Option<(String, String)>,
    request_timeout: Duration,
}

impl DynamoDbBuilder {
    pub(crate) fn new() -> Self {
        Self {
            clients: None,
            region: None,
            endpoint: None,
            access_key: None,
            request_timeout: Duration::from_secs(10),
        }
    }

    /// Sets the region. Without it, it comes from `AWS_REGION` or the profile.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the URL of the service, for a local server or a VPC endpoint. It is that of the streams too.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets an access key of its own, as local servers want some. Without it, credentials come from
    /// the standard chain: environment, profile, web identity, container, instance.
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.access_key = Some((id.into(), secret.into()));
        self
    }

    /// Sets how long a request may take before it is tried again. The default is 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets the clients, configured by yourself. They bring region, endpoint, credentials and timeouts.
    pub fn clients(mut self, client: Client, streams: aws_sdk_dynamodbstreams::Client) -> Self {
        self.clients = Some((client, streams));
        self
    }

    /// The connection. Nothing is sent yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a setting that cannot be, or if
    /// there is no region.
    pub async fn build(self) -> Result<DynamoDb> {
        let bad = |message: &str| Err(Error::invalid_config(message).driver(DRIVER));
        let own = self.region.is_some() || self.endpoint.is_some() || self.access_key.is_some();
        if self.clients.is_some() && own {
            return bad("the clients bring region, endpoint and credentials; leave those out");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(600)).contains(&self.request_timeout) {
            return bad("the request timeout is out of range; use 10 ms to 10 minutes");
        }
        let (client, streams) = match &self.clients {
            Some(clients) => clients.clone(),
            None => self.make().await?,
        };
        let clock = Clock::new(client.config().time_source());
        let config = client.config().to_builder().interceptor(clock.clone());
        Ok(DynamoDb {
            client: Client::from_conf(config.build()),
            streams,
            clock,
        })
    }

    async fn make(&self) -> Result<(Client, aws_sdk_dynamodbstreams::Client)> {
        let mut loader = aws_config::from_env();
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some((id, secret)) = &self.access_key {
            let key = Credentials::new(id, secret, None, None, "streams-dynamodb");
            loader = loader.credentials_provider(key);
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.request_timeout.min(Duration::from_secs(3)))
            .operation_attempt_timeout(self.request_timeout)
            .build();
        let loader = loader
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard());
        let shared = loader.load().await;
        if shared.region().is_none() {
            return Err(Error::invalid_config(
                "there is no region; set it with `region`, in `AWS_REGION` or in the profile",
            )
            .driver(DRIVER));
        }
        let mut config = aws_sdk_dynamodb::config::Builder::from(&shared);
        let mut streams = aws_sdk_dynamodbstreams::config::Builder::from(&shared);
        if let Some(url) = &self.endpoint {
            config = config.endpoint_url(url);
            streams = streams.endpoint_url(url);
        }
        Ok((
            Client::from_conf(config.build()),
            aws_sdk_dynamodbstreams::Client::from_conf(streams.build()),
        ))
    }
}

impl fmt::Debug for DynamoDbBuilder {
    /// Without the secret of the access key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbBuilder")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key", &self.access_key.as_ref().map(|(id, _)| id))
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use streams_core::ErrorKind;

    use super::*;

    fn local() -> DynamoDbBuilder {
        DynamoDbBuilder::new()
            .region("eu-west-1")
            .access_key("id", "s3cret")
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused() {
        let clients = local().make().await.unwrap();
        for builder in [
            local().request_timeout(Duration::ZERO),
            local().request_timeout(Duration::from_secs(601)),
            local().clients(clients.0, clients.1),
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
        let dynamodb = builder.build().await.unwrap();
        assert!(!format!("{dynamodb:?}").contains("s3cret"));
    }
}
