//! How one subscription runs.

use std::time::Duration;

use crate::{Backoff, Capabilities, Error, FailurePolicy, Order, ReadOptions, Result, StartFrom};

/// Which messages wait for which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Ordering {
    /// Messages of one key are handled one after another, also across retries; different keys and
    /// messages without a key run in parallel. The default.
    #[default]
    PerKey,
    /// All messages of the stream (of the partition, where there are some) are handled one after
    /// another.
    Stream,
    /// Nothing waits for anything.
    None,
}

/// How one subscription runs; each setting is checked by [`RunSettings::validate`].
#[derive(Debug, Clone)]
pub(crate) struct RunSettings {
    pub(crate) ordering: Ordering,
    pub(crate) concurrency: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_in_flight_bytes: usize,
    /// Messages a batch handler gets at most; 1 for single handlers.
    pub(crate) batch_size: usize,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) failure: FailurePolicy,
    pub(crate) reconnect: Backoff,
    /// Longer retry delays are left to the backend, where it can and order allows.
    pub(crate) longest_wait: Duration,
    /// For how long a delivery's lease is extended in all.
    pub(crate) longest_lease: Duration,
    pub(crate) settle_linger: Duration,
    /// What a handler publishes is written in one transaction with its acknowledgement.
    pub(crate) exactly_once: bool,
    /// How long finished deliveries wait for their transaction.
    pub(crate) commit_interval: Option<Duration>,
    /// How long running handlers have to finish when their partition is revoked.
    pub(crate) revoke_grace: Duration,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            ordering: Ordering::PerKey,
            concurrency: 16,
            max_in_flight: 1024,
            max_in_flight_bytes: 64 << 20,
            batch_size: 1,
            handler_timeout: None,
            failure: FailurePolicy::default(),
            reconnect: Backoff::default(),
            longest_wait: Duration::from_secs(60),
            longest_lease: Duration::from_secs(12 * 60 * 60),
            settle_linger: Duration::from_millis(5),
            exactly_once: false,
            commit_interval: None,
            revoke_grace: Duration::from_secs(5),
        }
    }
}

/// As Kafka Streams does with exactly-once processing.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Backends give up transactions and leases that stay open for long.
const LONGEST_COMMIT_INTERVAL: Duration = Duration::from_secs(30);

impl RunSettings {
    pub(crate) fn commit_interval(&self) -> Duration {
        self.commit_interval.unwrap_or(COMMIT_INTERVAL)
    }

    pub(crate) fn validate(&self, options: &ReadOptions, driver: &Capabilities) -> Result<()> {
        let zero =
            |what: &str, hint: &str| Err(Error::invalid_config(format!("the {what} is 0; {hint}")));
        if self.concurrency == 0 {
            return zero("concurrency", "use 1 to handle one message at a time");
        }
        if self.concurrency > usize::from(u16::MAX) {
            return Err(Error::invalid_config(format!(
                "the concurrency is {}; use at most {}",
                self.concurrency,
                u16::MAX
            )));
        }
        if self.max_in_flight == 0 {
            return zero(
                "limit of messages in flight",
                "use 1 to fetch one at a time",
            );
        }
        if self.max_in_flight_bytes == 0 {
            return zero(
                "limit of bytes in flight",
                "use the largest message's size or more",
            );
        }
        if self.batch_size == 0 {
            return zero("batch size", "use 1 for single messages");
        }
        if self
            .handler_timeout
            .is_some_and(|timeout| timeout.is_zero())
        {
            return zero("handler timeout", "leave it out for none");
        }
        if let Some(interval) = self.commit_interval {
            if !self.exactly_once {
                return Err(Error::invalid_config(
                    "a commit interval is for transactions; set `exactly_once` too, or use \
                     `settle_linger`",
                ));
            }
            if interval.is_zero() {
                return zero("commit interval", "use 1 ms to commit as often as can be");
            }
            if interval > LONGEST_COMMIT_INTERVAL {
                return Err(Error::invalid_config(format!(
                    "the commit interval is {interval:?}; use at most {LONGEST_COMMIT_INTERVAL:?}, \
                     for backends give up transactions that stay open"
                )));
            }
        }
        self.failure.validate()?;
        self.reconnect.validate()?;
        check_capabilities(options, driver)?;
        if self.ordering == Ordering::Stream && driver.order != Order::PerStream {
            return Err(Error::unsupported(
                driver.driver,
                "this driver does not deliver a whole stream in order; use `Ordering::PerKey`, or a \
                 driver that does",
            ));
        }
        Ok(())
    }
}

fn check_capabilities(options: &ReadOptions, driver: &Capabilities) -> Result<()> {
    let unsupported = |what: &str| Err(Error::unsupported(driver.driver, what));
    match &options.group {
        Some(_) if !driver.groups => {
            return unsupported("this driver has no consumer groups; subscribe without one");
        }
        None if !driver.no_group && !driver.shares_without_group => {
            return unsupported("this driver reads only as part of a group; name one with `group`");
        }
        _ => {}
    }
    let has = match &options.start {
        StartFrom::Default => true,
        StartFrom::Earliest => driver.start.earliest,
        StartFrom::Latest => driver.start.latest,
        StartFrom::Position(_) => driver.start.position,
        StartFrom::Time(_) => driver.start.time,
    };
    if !has {
        return unsupported(
            "this driver cannot start there; see `Capabilities::start` for where it can",
        );
    }
    if options.exactly_once && !driver.exactly_once {
        return unsupported(
            "this driver cannot settle and write in one transaction; leave out `exactly_once` and \
             make handlers idempotent, or use a driver that can",
        );
    }
    Ok(())
}
