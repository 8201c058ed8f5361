//! Region, endpoint and credentials: what all parts connect with.

use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use streams_core::{DriverUrl, Error, Result};

use crate::sdk::config::Credentials;

/// What is connected with, where there is no client of the caller's own.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) access_key: Option<(String, String)>,
    pub(crate) request_timeout: Duration,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            region: None,
            endpoint: None,
            access_key: None,
            request_timeout: Duration::from_secs(10),
        }
    }

    /// Whether something is set that a client brings.
    pub(crate) fn is_set(&self) -> bool {
        self.region.is_some() || self.endpoint.is_some() || self.access_key.is_some()
    }

    /// That of the URL: `scheme://id:secret@?region=..&endpoint=..&request_timeout_ms=..`.
    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        let bad = |what: &str| Err(Error::invalid_config(what));
        if !url.hosts().is_empty() || !url.path().trim_matches('/').is_empty() {
            return bad(
                "the URL has a host or a path, which mean nothing here; write it as \
                 `sqs:?region=eu-west-1`, and an endpoint as `&endpoint=https://...`",
            );
        }
        let mut this = Self::new();
        this.region = url.parameter("region").map(str::to_owned);
        this.endpoint = url.parameter("endpoint").map(str::to_owned);
        match (url.user(), url.password()) {
            (Some(id), Some(secret)) => this.access_key = Some((id.to_owned(), secret.to_owned())),
            (None, None) => {}
            _ => {
                return bad(
                    "the URL has half an access key; write both, as `sqs://id:secret@`, or leave it \
                     to the environment",
                );
            }
        }
        if let Some(millis) = url.parse_parameter("request_timeout_ms")? {
            this.request_timeout = Duration::from_millis(millis);
        }
        Ok(this)
    }

    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a timeout that cannot be.
    pub(crate) fn check(&self) -> Result<()> {
        let range = Duration::from_millis(10)..=Duration::from_secs(600);
        if !range.contains(&self.request_timeout) {
            return Err(Error::invalid_config(
                "the request timeout is out of range; use 10 ms to 10 minutes",
            ));
        }
        Ok(())
    }

    /// What clients are made of: these settings, and the rest from the environment and the profile.
    pub(crate) async fn load(&self) -> Result<SdkConfig> {
        let mut loader = aws_config::from_env();
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint {
            loader = loader.endpoint_url(url);
        }
        if let Some((id, secret)) = &self.access_key {
            let key = Credentials::new(id, secret, None, None, "streams-amazon");
            loader = loader.credentials_provider(key);
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(self.request_timeout.min(Duration::from_secs(3)))
            .operation_attempt_timeout(self.request_timeout)
            .build();
        let loader = loader.timeout_config(timeouts);
        let shared = loader.retry_config(RetryConfig::standard()).load().await;
        if shared.region().is_none() {
            return Err(Error::invalid_config(
                "there is no region; set it with `region`, in `AWS_REGION` or in the profile",
            ));
        }
        Ok(shared)
    }
}

impl fmt::Debug for Connection {
    /// Without the secret of the access key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("access_key", &self.access_key.as_ref().map(|(id, _)| id))
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}
