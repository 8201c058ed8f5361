//! Sends messages and waits until the brokers have confirmed them.

use std::sync::Arc;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use streams_core::{Message, Result};

use crate::client::Client;
use crate::config::Config;
use crate::context::ClientEvents;
use crate::deliveries::{Deliveries, Failure, Item, Reports};
use crate::gate::Pass;
use crate::message::{to_headers, to_timestamp};

/// A producer. Clones are the same.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client<Context>,
    deliveries: Arc<Deliveries>,
    events: ClientEvents,
}

/// What the client tells its reports to.
pub(crate) struct Context {
    events: ClientEvents,
    deliveries: Arc<Deliveries>,
}

impl Publisher {
    /// Starts a producer with these settings of the client. It blocks for some milliseconds.
    pub(crate) fn start(config: &Config, client: &ClientConfig) -> KafkaResult<Self> {
        let events = ClientEvents::new(config);
        let deliveries = Deliveries::new(config.queue_messages, config.queue_bytes);
        let context = Context {
            events: events.clone(),
            deliveries: deliveries.clone(),
        };
        Ok(Self {
            client: Client::start(client, context)?,
            deliveries,
            events,
        })
    }

    pub(crate) fn events(&self) -> &ClientEvents {
        &self.events
    }

    pub(crate) fn producer(&self) -> &Arc<BaseProducer<Context>> {
        self.client.producer()
    }

    /// Why it can send nothing more, where that is so.
    pub(crate) fn fatal_error(&self) -> Option<(KafkaError, String)> {
        let (code, reason) = self.producer().client().fatal_error()?;
        Some((KafkaError::Global(code), self.events.hide(&reason)))
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.producer(), other.producer())
    }

    /// Sends these messages of a batch, in order, as there is room for them.
    ///
    /// # Behavior
    /// Dropped before it ends, it has sent any part of them.
    pub(crate) async fn send(&self, batch: &[Message], items: &[Item], pass: Option<Pass>) -> Sent {
        let Some(mut reports) = self.deliveries.begin(items.len(), pass) else {
            return Sent::Nothing;
        };
        let mut rest = items;
        while !rest.is_empty() {
            let count = reports.reserve(rest).await;
            let (now, later) = rest.split_at(count);
            for item in now {
                self.send_one(&batch[item.index], reports.number(item.index));
            }
            rest = later;
        }
        Sent::Reports(reports)
    }

    fn send_one(&self, message: &Message, number: usize) {
        let failure = match record(message, number) {
            Err(error) => Failure::Refused(error),
            Ok(record) => match self.producer().send(record) {
                Ok(()) => return,
                Err((source, _)) => Failure::Client(source),
            },
        };
        self.deliveries.report(number, Some(failure));
    }
}

/// The record of a message, sent under this number.
fn record(message: &Message, number: usize) -> Result<BaseRecord<'_, [u8], [u8], usize>> {
    let mut record = BaseRecord::with_opaque_to(message.stream().as_str(), number)
        .headers(to_headers(message)?)
        .timestamp(to_timestamp(message)?);
    // Without data it is a tombstone: its value is null.
    if !message.data().is_empty() {
        record = record.payload(&message.data()[..]);
    }
    if let Some(key) = message.key() {
        record = record.key(key.as_bytes());
    }
    Ok(record)
}

/// Messages that were given to the client.
pub(crate) enum Sent {
    /// None was, for too many writes wait already.
    Nothing,
    /// Their reports are to come.
    Reports(Reports),
}

impl Sent {
    /// Waits for all reports; what failed, by index.
    pub(crate) async fn failures(self, items: &[Item]) -> Vec<(usize, Failure)> {
        match self {
            Self::Reports(mut reports) => reports.all().await,
            Self::Nothing => {
                let full = || Failure::Client(KafkaError::MessageProduction(Code::QueueFull));
                items.iter().map(|item| (item.index, full())).collect()
            }
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.log(level, facility, line);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(&error, reason);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.events.token()
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let failure = match result {
            Ok(_) => None,
            Err((source, _)) => Some(Failure::Client(source.clone())),
        };
        self.deliveries.report(number, failure);
    }
}
