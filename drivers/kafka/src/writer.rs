//! Writing.

use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use streams_core::{
    Capabilities, Error, ErrorKind, Message, Result, StreamName, WriteError, Writer, async_trait,
};

use crate::Inner;
use crate::admin::Problem;
use crate::config::{Compression, Config, DRIVER};
use crate::deliveries::{Failure, Item, LONGEST_WRITE};
use crate::error::{code, error};
use crate::gate::{Gate, Pass};
use crate::record;
use crate::targets::Target;
use crate::transactions::TransactionalProducer;

pub(crate) struct KafkaWriter {
    inner: Arc<Inner>,
    gate: Arc<Gate>,
    /// Opened when it is first needed, and again when it is finished.
    transactional: tokio::sync::Mutex<Option<Arc<TransactionalProducer>>>,
}

impl KafkaWriter {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            gate: Arc::default(),
            transactional: tokio::sync::Mutex::new(None),
        }
    }

    async fn transactional(&self) -> Result<Arc<TransactionalProducer>> {
        let mut current = self.transactional.lock().await;
        if let Some(producer) = current.as_ref().filter(|one| !one.is_finished()) {
            return Ok(producer.clone());
        }
        let Inner { config, topics, .. } = &*self.inner;
        let id = config.new_transactional_id();
        let opened = Arc::new(TransactionalProducer::open(config, topics, &id).await?);
        *current = Some(opened.clone());
        Ok(opened)
    }
}

#[async_trait]
impl Writer for KafkaWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let Some(pass) = self.gate.pass() else {
            return Err(WriteError::all(batch.len(), closed));
        };
        let mut failures = Vec::new();
        let mut start = 0;
        for part in batch.chunks(LONGEST_WRITE) {
            let mut write = Write::new(&self.inner, part);
            write.run(&pass).await;
            let failed = write.failures.into_iter();
            failures.extend(failed.map(|(index, error)| (start + index, error)));
            start += part.len();
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        let Some(_pass) = self.gate.pass() else {
            return Err(closed().operation("write_in_transaction"));
        };
        if batch.is_empty() {
            return Ok(());
        }
        self.transactional().await?.commit(batch, None).await
    }

    /// Ends at the latest after the driver's `delivery_timeout`.
    async fn flush(&self) -> Result<()> {
        self.gate.flush().await;
        Ok(())
    }

    /// Ends at the latest after the driver's `delivery_timeout`. Other writers of the driver go on.
    async fn close(&self) -> Result<()> {
        self.gate.close().await;
        self.transactional.lock().await.take();
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }
}

fn closed() -> Error {
    Error::closed("this writer").driver(DRIVER)
}

/// One write of at most [`LONGEST_WRITE`] messages.
struct Write<'a> {
    inner: &'a Inner,
    batch: &'a [Message],
    /// What was found out about the topics of the batch.
    topics: Vec<(&'a StreamName, Result<Arc<Target>, Problem>)>,
    failures: Vec<(usize, Error)>,
}

/// What goes to one producer.
struct Group {
    target: Arc<Target>,
    items: Vec<Item>,
}

impl<'a> Write<'a> {
    fn new(inner: &'a Inner, batch: &'a [Message]) -> Self {
        Self {
            inner,
            batch,
            topics: Vec::new(),
            failures: Vec::new(),
        }
    }

    async fn run(&mut self, pass: &Pass) {
        let groups = self.groups().await;
        let too_large = self.send(groups, pass).await;
        if !too_large.is_empty() {
            let groups = self.smaller_groups(too_large).await;
            for item in self.send(groups, pass).await {
                let source = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
                self.fail(item.index, error(&source, "write"));
            }
        }
    }

    fn fail(&mut self, index: usize, error: Error) {
        let topic = self.batch[index].stream();
        self.failures.push((index, error.with("topic", topic)));
    }

    /// The messages that can be written, by producer.
    async fn groups(&mut self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::with_capacity(1);
        for (index, message) in self.batch.iter().enumerate() {
            let bytes = record::batch_size(message);
            let checked = match record::check(&self.inner.config, message, bytes) {
                Ok(()) => self.target(message.stream()).await,
                Err(error) => Err(error),
            };
            let checked = checked.and_then(|target| {
                check_topic(&self.inner.config, &target, message, bytes).map(|()| target)
            });
            match checked {
                Ok(target) => add(
                    &mut groups,
                    &target,
                    Item { index, bytes },
                    self.batch.len(),
                ),
                Err(error) => self.fail(index, error),
            }
        }
        groups
    }

    async fn target(&mut self, topic: &'a StreamName) -> Result<Arc<Target>> {
        // From the last, which most often is the same.
        let known = self.topics.iter().rev().find(|(other, _)| *other == topic);
        let target = match known {
            Some((_, target)) => target.clone(),
            None => {
                let target = self.inner.targets.of(topic).await;
                self.topics.push((topic, target.clone()));
                target
            }
        };
        target.map_err(|problem| problem.error("write"))
    }

    /// Sends and waits for the brokers. What they refused as too large, maybe only together with
    /// others, is given back.
    async fn send(&mut self, groups: Vec<Group>, pass: &Pass) -> Vec<Item> {
        let mut sent = Vec::with_capacity(groups.len());
        for Group { target, items } in groups {
            let publisher = &target.publisher;
            let given = publisher.send(self.batch, &items, Some(pass.clone())).await;
            sent.push((target, items, given));
        }
        let mut too_large = Vec::new();
        for (target, items, given) in sent {
            for (index, failure) in given.failures(&items).await {
                let source = match failure {
                    Failure::Refused(error) => {
                        self.fail(index, error.operation("write").driver(DRIVER));
                        continue;
                    }
                    Failure::Client(source) => source,
                };
                match code(&source) {
                    Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => {
                        let item = items.iter().find(|item| item.index == index).copied();
                        if let Some(item) = item.filter(|item| !target.sends_alone(item.bytes)) {
                            too_large.push(item);
                            continue;
                        }
                    }
                    Some(
                        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition,
                    ) => self.inner.targets.forget(self.batch[index].stream()),
                    Some(Code::Fatal | Code::PurgeQueue | Code::PurgeInflight) => {
                        self.inner.targets.discard(&target.publisher).await;
                    }
                    _ => {}
                }
                self.fail(index, self.failure(&target, &source));
            }
        }
        too_large.sort_by_key(|item: &Item| item.index);
        too_large
    }

    /// Why the client or the brokers did not write a message.
    fn failure(&self, target: &Target, source: &KafkaError) -> Error {
        if let Some((source, reason)) = target.publisher.fatal_error() {
            let error = error(&source, "write").with("reason", reason);
            // Another producer takes its place.
            let is_retryable = error.kind() != ErrorKind::Permission;
            return error.retryable(is_retryable);
        }
        let error = error(source, "write");
        if error.kind() != ErrorKind::Timeout {
            return error;
        }
        let timeout = self.inner.config.delivery_timeout;
        let error = error.with("delivery_timeout", format_args!("{timeout:?}"));
        match target.publisher.events().last_failure() {
            Some(last) => error.with("last_failure", last.reason),
            None => error,
        }
    }

    /// What was refused as too large, to be sent in smaller batches.
    async fn smaller_groups(&mut self, refused: Vec<Item>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut smaller: Vec<(&StreamName, Result<Arc<Target>, Problem>)> = Vec::new();
        for (at, item) in refused.iter().enumerate() {
            let message = &self.batch[item.index];
            let topic = message.stream();
            if self.is_overtaken(item.index, &refused[at..]) {
                self.fail(item.index, overtaken());
                continue;
            }
            let target = match smaller.iter().find(|(other, _)| *other == topic) {
                Some((_, target)) => target.clone(),
                None => {
                    let before = self.topics.iter().find(|(other, _)| *other == topic);
                    let target = match before {
                        Some((_, Ok(before))) => self.inner.targets.smaller(topic, before).await,
                        Some((_, Err(problem))) => Err(problem.clone()),
                        None => self.inner.targets.of(topic).await,
                    };
                    smaller.push((topic, target.clone()));
                    target
                }
            };
            let checked = target
                .map_err(|problem| problem.error("write"))
                .and_then(|target| {
                    check_topic(&self.inner.config, &target, message, item.bytes).map(|()| target)
                });
            match checked {
                Ok(target) => add(&mut groups, &target, *item, refused.len()),
                Err(error) => self.fail(item.index, error),
            }
        }
        groups
    }

    /// Whether a later message of the same key was written, so that this one would come after it.
    fn is_overtaken(&self, index: usize, refused: &[Item]) -> bool {
        let message = &self.batch[index];
        let Some(key) = message.key() else {
            return false;
        };
        let later = self.batch.iter().enumerate().skip(index + 1);
        let mut of_key = later
            .filter(|(_, later)| later.key() == Some(key) && later.stream() == message.stream());
        of_key.any(|(later, _)| {
            let is_refused = refused.iter().any(|item| item.index == later);
            let has_failed = self.failures.iter().any(|(failed, _)| *failed == later);
            !is_refused && !has_failed
        })
    }
}

/// Adds to what goes to the target's producer.
fn add(groups: &mut Vec<Group>, target: &Arc<Target>, item: Item, most: usize) {
    let is_same = |group: &&mut Group| {
        Arc::ptr_eq(&group.target, target) || group.target.publisher.is_same(&target.publisher)
    };
    if let Some(group) = groups.iter_mut().find(is_same) {
        group.items.push(item);
        return;
    }
    let mut items = Vec::with_capacity(most);
    items.push(item);
    groups.push(Group {
        target: target.clone(),
        items,
    });
}

/// Refuses what the topic would. How large it is compressed the brokers know.
fn check_topic(config: &Config, target: &Target, message: &Message, bytes: usize) -> Result<()> {
    match target.limit {
        Some(limit) if config.compression == Compression::None => {
            record::check_topic(message, bytes, limit)
        }
        _ => Ok(()),
    }
}

fn overtaken() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "the brokers refused the message as too large together with others, and later messages of \
         its key were written; write it again if it may come after them. From now on messages for \
         this topic go in smaller batches",
    )
    .operation("write")
    .driver(DRIVER)
}
