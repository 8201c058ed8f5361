//! Options of one subscription.

use std::time::Duration;

use streams_core::{DriverOptions, Error, OptionFor, ReadOptions, Result, StartFrom};

use crate::Sqs;
use crate::config::{Config, DRIVER, check_concurrency, check_visibility, check_wait};

/// Options of one subscription. What is not set is as the driver has it.
///
/// By name, as from a configuration file: `visibility_timeout_seconds`, `wait_seconds`,
/// `receive_concurrency`.
///
/// ```
/// use std::time::Duration;
/// use streams_amazon::SqsOptions;
///
/// let options = SqsOptions::new().visibility_timeout(Duration::from_secs(300));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until a subscription is given them"]
pub struct SqsOptions {
    visibility_timeout: Option<Duration>,
    wait: Option<Duration>,
    receive_concurrency: Option<usize>,
}

impl SqsOptions {
    /// All as the driver has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`SqsBuilder::visibility_timeout`](crate::SqsBuilder::visibility_timeout).
    pub fn visibility_timeout(mut self, timeout: Duration) -> Self {
        self.visibility_timeout = Some(timeout);
        self
    }

    /// As [`SqsBuilder::wait`](crate::SqsBuilder::wait).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// As [`SqsBuilder::receive_concurrency`](crate::SqsBuilder::receive_concurrency).
    pub fn receive_concurrency(mut self, requests: usize) -> Self {
        self.receive_concurrency = Some(requests);
        self
    }
}

impl DriverOptions for SqsOptions {
    const DRIVER: &'static str = DRIVER;
}

impl OptionFor<Sqs> for SqsOptions {}

pub(crate) const ARGUMENTS: &[&str] = &[
    "visibility_timeout_seconds",
    "wait_seconds",
    "receive_concurrency",
];

/// How a subscription reads, checked.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) visibility_timeout: Duration,
    pub(crate) wait: Duration,
    pub(crate) concurrency: usize,
}

impl Plan {
    /// Of a subscription's options, in which the arguments by name have been checked.
    ///
    /// # Errors
    /// [`Unsupported`](streams_core::ErrorKind::Unsupported) for what a queue does not have,
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for what cannot be.
    pub(crate) fn of(options: &ReadOptions, own: &SqsOptions, config: &Config) -> Result<Self> {
        let arguments = &options.driver;
        if options.start != StartFrom::Default {
            return Err(Error::unsupported(
                DRIVER,
                "a queue is read from its start, and has no other position; leave it out",
            ));
        }
        if options.exactly_once {
            return Err(Error::unsupported(
                DRIVER,
                "SQS has no transactions; leave out `exactly_once`, and deduplicate instead",
            ));
        }
        let seconds = |name| {
            let seconds = arguments.parse::<u64>(name)?;
            Ok::<_, Error>(seconds.map(Duration::from_secs))
        };
        let plan = Self {
            visibility_timeout: seconds("visibility_timeout_seconds")?
                .or(own.visibility_timeout)
                .unwrap_or(config.visibility_timeout),
            wait: seconds("wait_seconds")?.or(own.wait).unwrap_or(config.wait),
            concurrency: arguments
                .parse("receive_concurrency")?
                .or(own.receive_concurrency)
                .unwrap_or(config.receive_concurrency),
        };
        check_visibility(plan.visibility_timeout)?;
        check_wait(plan.wait)?;
        check_concurrency(plan.concurrency)?;
        Ok(plan)
    }
}
