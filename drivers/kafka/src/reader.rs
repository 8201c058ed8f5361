//! Reading.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use streams_core::{
    Assignment, Capabilities, Delivery, Error, ErrorKind, ReadOptions, Reader, Received, Result,
    SettleAction, SettleReport, Settlement, StreamName, Subscription, TransactionPart, async_trait,
};
use tokio::sync::oneshot;

use crate::Inner;
use crate::callbacks::Callbacks;
use crate::commits::add;
use crate::config::DRIVER;
use crate::consumer;
use crate::context::ClientEvents;
use crate::error::error;
use crate::options::Plan;
use crate::partitions::Partitions;
use crate::shared::{Event, Shared};
use crate::start::{pin, resolve, unpinned};
use crate::transactions::TransactionalProducer;

pub(crate) struct KafkaReader {
    inner: Arc<Inner>,
}

impl KafkaReader {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let plan = Plan::of(options)?;
        let inner = &self.inner;
        let stream = &options.stream;
        let named = |error: Error| error.operation("subscribe").with("stream", stream);
        inner.topics.ensure(stream).await.map_err(named)?;
        let transactions = match plan.exactly_once {
            true => {
                let id = inner.config.new_transactional_id();
                let opened = TransactionalProducer::open(&inner.config, &inner.topics, &id).await;
                Some(opened.map_err(named)?)
            }
            false => None,
        };
        let opening = Opening {
            inner: inner.clone(),
            stream: stream.clone(),
            plan,
        };
        let opened = tokio::task::spawn_blocking(move || opening.open());
        let (shared, consumer, ended) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::NotFound {
                    inner.topics.forget(stream);
                }
                return Err(named(error));
            }
            Err(_) => return Err(named(Error::closed("the runtime"))),
        };
        if let Some(control) = &shared.plan.control {
            control.tie(&shared);
        }
        Ok(Box::new(KafkaSubscription {
            partitions: Partitions::new(stream.clone(), shared.plan.until_end),
            shared,
            consumer: Some(consumer),
            transactions,
            releasing: Vec::new(),
            ended,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }
}

/// A subscription on its way.
struct Opening {
    inner: Arc<Inner>,
    stream: StreamName,
    plan: Plan,
}

type Opened = (
    Arc<Shared>,
    Arc<BaseConsumer<Callbacks>>,
    oneshot::Receiver<()>,
);

impl Opening {
    /// Opens it. Blocks.
    fn open(self) -> Result<Opened> {
        let Self {
            inner,
            stream,
            plan,
        } = self;
        let config = &inner.config;
        let timeout = config.connect_timeout;
        let topic = stream.as_str();
        let client = client_config(&inner, &plan);
        let shared = Arc::new(Shared::new(
            stream.clone(),
            plan.clone(),
            config.client_id.as_str().into(),
        ));
        let events = Callbacks::new(ClientEvents::new(config), shared.clone());
        let consumer: BaseConsumer<Callbacks> = client
            .create_with_context(events)
            .map_err(|source| error(&source, "subscribe"))?;
        let there = partitions(&consumer, topic, timeout)?;
        let (tell, ended) = oneshot::channel();
        if plan.group.is_some() {
            let begin = unpinned(&consumer, topic, &there, &plan.start, timeout)?;
            let pinned = pin(&consumer, &begin)?;
            if !pinned {
                consumer.context().pin_when_assigned(begin);
            }
            let consumer = consumer::start(consumer, tell)?;
            consumer
                .subscribe(&[topic])
                .map_err(|source| error(&source, "subscribe"))?;
            if !pinned {
                shared.wait_until_joined(timeout)?;
            }
            return Ok((shared, consumer, ended));
        }
        let wanted: Vec<u32> = match &plan.partitions {
            None => there,
            Some(wanted) => match wanted.iter().find(|number| !there.contains(number)) {
                None => wanted.iter().copied().collect(),
                Some(missing) => {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!(
                            "the topic has no such partition; it has {}, counted from 0",
                            there.len()
                        ),
                    )
                    .driver(DRIVER)
                    .with("partition", missing));
                }
            },
        };
        let begin = resolve(&consumer, topic, &wanted, &plan.start, timeout)?;
        let consumer = consumer::start(consumer, tell)?;
        shared.assign(&consumer, &wanted);
        consumer
            .assign(&begin)
            .map_err(|source| error(&source, "subscribe"))?;
        Ok((shared, consumer, ended))
    }
}

/// The client's settings for a subscription.
fn client_config(inner: &Inner, plan: &Plan) -> rdkafka::ClientConfig {
    // The client wants a group to assign partitions by hand too; it joins none then.
    let group = plan.group.as_deref().unwrap_or("streams-no-group");
    let mut client = inner.config.consumer(group);
    // A bounded read knows that it is at the end by a request that found nothing.
    let wait = if plan.until_end { "10" } else { "100" };
    let wait = client.get("fetch.wait.max.ms").unwrap_or(wait).to_owned();
    client
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Also for positions the topic no longer keeps: nothing that is there is skipped.
        .set("auto.offset.reset", "earliest")
        .set(
            "queued.max.messages.kbytes",
            (plan.prefetch >> 10).to_string(),
        )
        // A request that asks for partitions without news alone, because there is no room for those
        // with news, holds up the next that long: half a second by default.
        .set("fetch.wait.max.ms", wait)
        // How soon the client looks whether there is room again to fetch; by default it is a second.
        .set("fetch.queue.backoff.ms", "5")
        .set("enable.partition.eof", plan.until_end.to_string())
        .set(
            "statistics.interval.ms",
            plan.statistics_interval.as_millis().to_string(),
        );
    // A member that joins takes partitions from others without stopping all of them. Where the
    // brokers assign partitions (`group.protocol=consumer`), that is how they do it by themselves.
    if client.get("partition.assignment.strategy").is_none()
        && client.get("group.protocol") != Some("consumer")
    {
        client.set("partition.assignment.strategy", "cooperative-sticky");
    }
    if let Some(id) = &plan.instance_id {
        client.set("group.instance.id", id);
    }
    client
}

/// The topic's partitions. Blocks.
fn partitions(
    consumer: &BaseConsumer<Callbacks>,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<u32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), timeout)
        .map_err(|source| error(&source, "subscribe"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| !found.partitions().is_empty()) else {
        // It was there when it was looked for, and has been deleted since.
        let source = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        return Err(error(&source, "subscribe"));
    };
    let mut numbers: Vec<u32> = found
        .partitions()
        .iter()
        .filter_map(|partition| u32::try_from(partition.id()).ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

struct KafkaSubscription {
    shared: Arc<Shared>,
    partitions: Partitions,
    /// Until it is closed.
    consumer: Option<Arc<BaseConsumer<Callbacks>>>,
    transactions: Option<TransactionalProducer>,
    /// What the runner was told to let go of.
    releasing: Vec<Assignment>,
    /// Answered when the consumer's thread has ended.
    ended: oneshot::Receiver<()>,
}

impl KafkaSubscription {
    /// What there is now, if anything.
    fn poll(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Option<Result<Received>> {
        if !self.releasing.is_empty() {
            // By calling again, the runner lets them go.
            self.partitions.remove(&std::mem::take(&mut self.releasing));
            self.shared.released();
        }
        if let Some(event) = self.shared.next_event() {
            return Some(self.event(event));
        }
        if self.consumer.is_none() {
            return Some(Err(Error::closed("the subscription").driver(DRIVER)));
        }
        let before = out.len();
        match self.partitions.take(max, out) {
            Err(error) => Some(Err(error)),
            Ok(()) if out.len() > before => Some(Ok(Received::Deliveries)),
            Ok(()) if self.partitions.is_at_end() => Some(Ok(Received::End)),
            Ok(()) => None,
        }
    }

    fn event(&mut self, event: Event) -> Result<Received> {
        match event {
            Event::Assigned(partitions) => {
                let assigned = partitions.iter().map(|p| p.assignment).collect();
                self.partitions.add(partitions);
                Ok(Received::Assigned(assigned))
            }
            Event::Revoking(going) => {
                self.releasing.clone_from(&going);
                Ok(Received::Revoking(going))
            }
            Event::Lost(gone) => {
                self.partitions.remove(&gone);
                Ok(Received::Lost(gone))
            }
            Event::Failed(error) => Err(error),
        }
    }

    /// Notes positions; what was no longer held is reported.
    fn note(&self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let mut report = SettleReport::default();
        if self.consumer.is_none() {
            return Err(Error::closed("the subscription").driver(DRIVER));
        }
        if let Some(other) = settlements.iter().find(|s| s.action != SettleAction::Ack) {
            return Err(Error::unsupported(
                DRIVER,
                "a group has one position in each partition, so a delivery cannot be given back \
                 alone; leave it unsettled and it comes again when the subscription is opened anew",
            )
            .operation("settle")
            .with("offset", other.token.id().sequence));
        }
        let mut state = self.shared.lock();
        for settlement in settlements.drain(..) {
            let id = settlement.token.id();
            if !state.commits.settle(id) {
                report.lost.push(id);
            }
        }
        Ok(report)
    }

    /// Lets go of the consumer, so that its thread is the last to hold it and can end it.
    fn leave(&mut self) {
        self.partitions.clear();
        self.consumer = None;
        self.shared.close();
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if let Some(received) = self.poll(max, out) {
                return received;
            }
            // A permit stays for what comes between the look and the wait.
            self.shared.wake.notified().await;
        }
    }

    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        self.poll(max, out)
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let report = self.note(settlements)?;
        let (Some(consumer), true) = (&self.consumer, self.shared.plan.group.is_some()) else {
            return Ok(report);
        };
        let (shared, consumer) = (self.shared.clone(), consumer.clone());
        let committed = tokio::task::spawn_blocking(move || {
            let list = shared.lock().commits.take(shared.stream.as_str(), None);
            let Some(list) = list else { return Ok(()) };
            consumer.commit(&list, CommitMode::Sync).inspect_err(|_| {
                shared.lock().commits.failed(&list);
            })
        });
        match committed.await {
            Ok(Ok(())) => Ok(report),
            // It stays noted, and is committed with the next; or, when the group has given this member
            // up, comes again on the subscription that is opened anew.
            Ok(Err(source)) => {
                let fenced =
                    source.rdkafka_error_code() == Some(RDKafkaErrorCode::FencedInstanceId);
                let error = error(&source, "settle").with("stream", &self.shared.stream);
                Err(match error.kind() {
                    ErrorKind::LeaseLost if !fenced => error.retryable(true),
                    _ => error,
                })
            }
            Err(_) => Err(Error::closed("the runtime").driver(DRIVER)),
        }
    }

    /// Notes the positions; the consumer's thread commits them within the commit interval.
    fn try_settle(&mut self, settlements: &mut Vec<Settlement>) -> Option<Result<SettleReport>> {
        if self.shared.plan.commit_interval.is_zero() {
            return None;
        }
        Some(self.note(settlements))
    }

    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        let (Some(producer), Some(consumer)) = (&self.transactions, &self.consumer) else {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the subscription was not opened for transactions; use `exactly_once`",
            )
            .operation("settle_in_transaction")
            .driver(DRIVER));
        };
        let mut report = SettleReport::default();
        let mut positions = TopicPartitionList::new();
        {
            let state = self.shared.lock();
            parts.retain(|part| {
                let id = part.settlement.token.id();
                let held = state.commits.is_held(id);
                if held {
                    let next = i64::try_from(id.sequence).map_or(i64::MAX, |offset| offset + 1);
                    add(
                        &mut positions,
                        self.shared.stream.as_str(),
                        id.partition,
                        next,
                    );
                } else {
                    report.lost.push(id);
                }
                held
            });
        }
        if parts.is_empty() {
            return Ok(report);
        }
        let Some(group) = consumer.group_metadata() else {
            return Err(Error::closed("the subscription").driver(DRIVER));
        };
        let outputs: Vec<_> = parts
            .iter()
            .flat_map(|p| p.outputs.iter().cloned())
            .collect();
        match producer.commit(&outputs, Some((positions, group))).await {
            Ok(()) => {
                let mut state = self.shared.lock();
                for part in parts.drain(..) {
                    state.commits.committed(part.settlement.token.id());
                }
                Ok(report)
            }
            Err(error) => {
                if producer.is_finished() {
                    // Another producer goes on from what is committed, whatever that is.
                    self.shared.fail("a transaction came to no end", &error);
                }
                Err(error)
            }
        }
    }

    async fn close(&mut self) -> Result<()> {
        if self.consumer.is_some() {
            self.leave();
            // The thread commits what was settled and leaves the group.
            let _ = (&mut self.ended).await;
        }
        Ok(())
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}
