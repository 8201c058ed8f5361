//! The driver by URL.

use streams_core::{DriverUrl, Result};

use super::{DRIVER, SnsBuilder};
#[cfg(feature = "sqs")]
use crate::SqsBuilder;
use crate::connection::Connection;
use crate::limits::Limits;

pub(super) const PARAMETERS: &[&str] = &[
    "region",
    "endpoint",
    "account_id",
    "fifo",
    "create_topics",
    "filter_headers",
    "send_concurrency",
    "largest_request",
    "largest_message",
    "request_timeout_ms",
    #[cfg(feature = "sqs")]
    "visibility_timeout_seconds",
    #[cfg(feature = "sqs")]
    "wait_seconds",
    #[cfg(feature = "sqs")]
    "receive_concurrency",
    #[cfg(feature = "sqs")]
    "create_queues",
    #[cfg(feature = "sqs")]
    "max_receives",
];

impl SnsBuilder {
    pub(super) fn from_url(url: &DriverUrl) -> Result<Self> {
        let mut this = Self::new();
        let connection = Connection::from_url(url);
        this.connection = connection.map_err(|error| error.driver(DRIVER))?;
        this.limits = Limits::from_url(url)?;
        this.account_id = url.parameter("account_id").map(str::to_owned);
        this.fifo = url.parse_parameter("fifo")?.unwrap_or(false);
        this.create_topics = url.parse_parameter("create_topics")?.unwrap_or(false);
        if let Some(names) = url.parameter("filter_headers") {
            this = this.filter_headers(names.split(','));
        }
        #[cfg(feature = "sqs")]
        {
            this.queues = SqsBuilder::from_url(url)?;
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use streams_core::{DriverRegistry, ErrorKind};

    use crate::Sns;

    #[tokio::test]
    async fn urls_open_or_say_what_is_wrong() {
        let drivers = DriverRegistry::new().with::<Sns>();
        for good in [
            "sns:?region=eu-west-1",
            "sns://id:secret@?region=eu-west-1&account_id=1&fifo=true",
            "sns:?region=eu-west-1&create_topics=true&filter_headers=tenant,kind",
        ] {
            assert!(drivers.open(good).await.is_ok(), "{good}");
        }
        for bad in [
            "sns://host?region=eu-west-1",
            "sns:?region=eu-west-1&create_topics=maybe",
            "sns:?region=eu-west-1&largest_request=1",
            "sns:?region=eu-west-1&filter_headers=a,b,c,d",
            "sns:?region=eu-west-1&no_such=1",
        ] {
            let error = drivers.open(bad).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }
}
