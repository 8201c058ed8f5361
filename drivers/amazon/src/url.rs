//! The driver by URL.

use std::time::Duration;

use streams_core::{DriverUrl, Error, Result};

use crate::config::{DRIVER, SqsBuilder};
use crate::connection::Connection;
use crate::limits::Limits;
use crate::queues::NewQueues;

pub(crate) const PARAMETERS: &[&str] = &[
    "region",
    "endpoint",
    "account_id",
    "fifo",
    "visibility_timeout_seconds",
    "wait_seconds",
    "receive_concurrency",
    "send_concurrency",
    "largest_request",
    "largest_message",
    "request_timeout_ms",
    "create_queues",
    "max_receives",
];

impl SqsBuilder {
    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        let connection = Connection::from_url(url).map_err(|error| error.driver(DRIVER))?;
        let mut this = Self::new();
        this.connection = connection;
        if let Some(id) = url.parameter("account_id") {
            this = this.account_id(id);
        }
        if let Some(fifo) = url.parse_parameter("fifo")? {
            this = this.fifo(fifo);
        }
        let seconds = Duration::from_secs;
        if let Some(value) = url.parse_parameter("visibility_timeout_seconds")? {
            this = this.visibility_timeout(seconds(value));
        }
        if let Some(value) = url.parse_parameter("wait_seconds")? {
            this = this.wait(seconds(value));
        }
        if let Some(requests) = url.parse_parameter("receive_concurrency")? {
            this = this.receive_concurrency(requests);
        }
        this.config.limits = Limits::from_url(url)?;
        let receives = url.parse_parameter("max_receives")?;
        if url.parse_parameter("create_queues")?.unwrap_or(false) {
            let settings = NewQueues::new();
            this = this.create_queues(match receives {
                Some(receives) => settings.max_receives(receives),
                None => settings,
            });
        } else if receives.is_some() {
            return Err(Error::invalid_config(
                "`max_receives` is for queues that are created; add `create_queues=true`",
            )
            .driver(DRIVER));
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use streams_core::{DriverRegistry, ErrorKind};

    use crate::Sqs;

    #[tokio::test]
    async fn urls_open_or_say_what_is_wrong() {
        let drivers = DriverRegistry::new().with::<Sqs>();
        for good in [
            "sqs:?region=eu-west-1",
            "sqs:?region=eu-west-1&endpoint=http%3A%2F%2F127.0.0.1%3A9324&fifo=true&wait_seconds=5",
            "sqs:?region=eu-west-1&create_queues=true&max_receives=5&account_id=1",
        ] {
            assert!(drivers.open(good).await.is_ok(), "{good}");
        }
        for bad in [
            "sqs://host?region=eu-west-1",
            "sqs:/path?region=eu-west-1",
            "sqs:?region=eu-west-1&fifo=maybe",
            "sqs:?region=eu-west-1&max_receives=5",
            "sqs:?region=eu-west-1&wait_seconds=0",
            "sqs:?region=eu-west-1&no_such=1",
        ] {
            let error = drivers.open(bad).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }
}
