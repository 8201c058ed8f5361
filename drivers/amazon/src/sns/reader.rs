//! Reading the queues that are subscribed to topics.

use std::sync::Arc;

use async_trait::async_trait;
use streams_core::{
    Capabilities, DriverOptions, Error, OptionFor, ReadOptions, Reader, Result, Subscription,
};

use super::chain::NewSubscription;
use super::config::Config;
use super::{DRIVER, Inner, Sns};
use crate::options::{Plan, SqsOptions};
use crate::reader::subscription;

/// Options of one subscription. What is not set is as the driver has it.
///
/// By name, as from a configuration file: `filter_policy`, and those of [`SqsOptions`].
///
/// ```
/// use std::time::Duration;
/// use streams_amazon::{SnsOptions, SqsOptions};
///
/// let options = SnsOptions::new()
///     .filter_policy(r#"{"tenant": ["acme"]}"#)
///     .queue(SqsOptions::new().visibility_timeout(Duration::from_secs(300)));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until a subscription is given them"]
pub struct SnsOptions {
    filter_policy: Option<String>,
    queue: SqsOptions,
}

impl SnsOptions {
    /// All as the driver has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which messages the queue gets, as [`NewSubscription::filter_policy`]. It is for a driver
    /// that creates queues.
    pub fn filter_policy(mut self, json: impl Into<String>) -> Self {
        self.filter_policy = Some(json.into());
        self
    }

    /// Sets how the queue is read.
    pub fn queue(mut self, options: SqsOptions) -> Self {
        self.queue = options;
        self
    }
}

impl DriverOptions for SnsOptions {
    const DRIVER: &'static str = DRIVER;
}

impl OptionFor<Sns> for SnsOptions {}

const FILTER_POLICY: &str = "filter_policy";

/// What writing to topics and reading from queues come to.
pub(super) fn capabilities(config: &Config, queues: &Capabilities) -> Capabilities {
    let mut all = queues.clone().groups(true).keeps_before_group(false);
    all.driver = DRIVER;
    all.delay = None;
    config.of_writing(all)
}

pub(super) struct SnsReader {
    inner: Arc<Inner>,
}

impl SnsReader {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The name of the queue, and what is to be created with it if that is wanted.
    fn settings(&self, options: &ReadOptions, own: &SnsOptions) -> Result<Option<NewSubscription>> {
        let arguments = &options.driver;
        let filter = arguments.argument(FILTER_POLICY).map(str::to_owned);
        let filter = filter.or_else(|| own.filter_policy.clone());
        let Some(queues) = &self.inner.sqs.inner.config.create_queues else {
            return match filter {
                None => Ok(None),
                Some(_) => Err(Error::invalid_config(
                    "a filter policy is for subscriptions that are created; set `create_queues`, or \
                     leave it out and set it at AWS",
                )),
            };
        };
        let mut settings = NewSubscription::new().queues(queues.clone());
        if let Some(group) = &options.group {
            settings = settings.group(group);
        }
        if let Some(filter) = filter {
            settings = settings.filter_policy(filter);
        }
        settings.check()?;
        Ok(Some(settings))
    }
}

#[async_trait]
impl Reader for SnsReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let stream = &options.stream;
        let failed = |error: Error| {
            let error = error.operation("subscribe").driver(DRIVER);
            error.with("stream", stream)
        };
        let names: Vec<_> = [&[FILTER_POLICY], crate::options::ARGUMENTS].concat();
        options.driver.check(DRIVER, &names).map_err(failed)?;
        let own: SnsOptions = options.driver.get().cloned().unwrap_or_default();
        let sqs = &self.inner.sqs.inner;
        let plan = Plan::of(options, &own.queue, &sqs.config).map_err(failed)?;
        let queue = match self.settings(options, &own).map_err(failed)? {
            Some(settings) => self.inner.chain(stream, &settings).await,
            None => match self.inner.queue_name(stream, options.group.as_deref()) {
                Ok(name) => sqs.queues.named(&name, None).await,
                Err(problem) => Err(problem),
            },
        };
        let queue = queue.map_err(|problem| failed(problem.error("subscribe")))?;
        Ok(subscription(sqs.clone(), queue, stream, plan))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }
}
