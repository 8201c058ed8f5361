//! Messages and offsets written all or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer};
use streams_core::{Error, ErrorKind, Message, Result};

use crate::blocking::{Ended, attempts, blocking};
use crate::config::{Config, DRIVER};
use crate::deliveries::{Failure, Item};
use crate::error::error;
use crate::publisher::{Context, Publisher, Sent};
use crate::record;
use crate::topics::Topics;

/// A producer with a transactional id. It has one transaction at a time; who comes meanwhile waits.
///
/// Once a call has failed with [`ErrorKind::LeaseLost`] or [`ErrorKind::Conflict`], it is finished
/// and all later ones do. Open another then.
pub(crate) struct TransactionalProducer(Arc<Shared>);

struct Shared {
    config: Arc<Config>,
    topics: Topics,
    publisher: Publisher,
    turn: Arc<tokio::sync::Mutex<()>>,
    finished: AtomicBool,
}

/// What is to be done about an error of a transaction.
enum Next {
    /// The same once more: it goes on where it was.
    Again,
    /// Give the transaction up.
    Abort,
    /// Nothing: this producer is finished.
    Finished,
}

impl Next {
    fn after(source: &KafkaError) -> Self {
        match source {
            KafkaError::Transaction(error) if error.is_fatal() => Self::Finished,
            KafkaError::Transaction(error) if error.txn_requires_abort() => Self::Abort,
            KafkaError::Transaction(error) if error.is_retriable() => Self::Again,
            KafkaError::Flush(_) => Self::Again,
            _ => Self::Abort,
        }
    }
}

impl TransactionalProducer {
    /// Takes the place of whoever had this id before: an open transaction of theirs is aborted.
    ///
    /// # Errors
    /// - [`ErrorKind::Unavailable`] when no broker answers within the driver's `connect_timeout`.
    /// - [`ErrorKind::Permission`] when the brokers refuse the client or the id.
    pub(crate) async fn open(config: &Arc<Config>, topics: &Topics, id: &str) -> Result<Self> {
        const DOING: &str = "open a transactional producer";
        let (used, client) = (config.clone(), config.transactional_producer(id));
        let publisher = blocking(move || Publisher::start(&used, &client))
            .await?
            .map_err(|source| error(&source, DOING))?;
        let shared = Shared {
            config: config.clone(),
            topics: topics.clone(),
            publisher,
            turn: Arc::default(),
            finished: AtomicBool::new(false),
        };
        let timeout = config.connect_timeout;
        let opened = tokio::select! {
            biased;
            opened = shared.call(timeout, Producer::init_transactions) => opened?,
            failure = shared.publisher.events().refused() => return Err(failure.error(DOING)),
        };
        match opened {
            Ok(()) => Ok(Self(Arc::new(shared))),
            Err(source) => match (
                Next::after(&source),
                shared.publisher.events().last_failure(),
            ) {
                (Next::Again, failure) => {
                    let error = Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "no broker could open transactions within {timeout:?}; see that they \
                             are up and can be reached, or raise `connect_timeout`"
                        ),
                    );
                    let error = match failure {
                        Some(failure) => error.with("reason", &failure.reason),
                        None => error,
                    };
                    Err(error.operation(DOING).driver(DRIVER).source(source))
                }
                _ => Err(error(&source, DOING)),
            },
        }
    }

    /// Writes messages and a group's offsets in one transaction.
    ///
    /// # Behavior
    /// A call that is dropped goes on by itself, and later ones wait for it.
    ///
    /// # Errors
    /// Nothing was written then, and it may be tried again where the error is
    /// [retryable](Error::is_retryable). A message that cannot be written is named by its `index`.
    /// [`ErrorKind::LeaseLost`] says that this producer is finished; [`ErrorKind::Conflict`] that it
    /// cannot be told what became of the transaction, and that it is finished.
    pub(crate) async fn commit(
        &self,
        messages: &[Message],
        offsets: Option<(TopicPartitionList, ConsumerGroupMetadata)>,
    ) -> Result<()> {
        let shared = self.0.clone();
        let items = shared.check(messages).await?;
        let turn = shared.turn.clone().lock_owned().await;
        if shared.finished.load(Ordering::Acquire) {
            return Err(finished());
        }
        let messages = messages.to_vec();
        // In a task of its own, so that a transaction that was begun is ended.
        let running = tokio::spawn(async move {
            let result = shared.run(&messages, &items, offsets).await;
            drop(turn);
            result
        });
        running.await.map_err(|_| Ended)?
    }

    /// Whether it can do nothing more.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.finished.load(Ordering::Acquire)
    }
}

impl Shared {
    /// Refuses what could not be written, before anything is begun.
    async fn check(&self, messages: &[Message]) -> Result<Vec<Item>> {
        let mut items = Vec::with_capacity(messages.len());
        let mut known: Option<(&Message, Option<usize>)> = None;
        for (index, message) in messages.iter().enumerate() {
            let named = |error: Error| error.with("index", index);
            let bytes = record::batch_size(message);
            record::check(&self.config, message, bytes).map_err(named)?;
            let limit = match known {
                Some((other, limit)) if other.stream() == message.stream() => limit,
                _ => {
                    let limit = self.topics.largest_batch(message.stream()).await;
                    limit.map_err(|problem| {
                        let error = problem.error("write in a transaction");
                        named(error.with("topic", message.stream()))
                    })?
                }
            };
            known = Some((message, limit));
            if let Some(limit) = limit
                && self.config.compression == crate::Compression::None
            {
                record::check_topic(message, bytes, limit).map_err(named)?;
            }
            items.push(Item { index, bytes });
        }
        Ok(items)
    }

    async fn run(
        &self,
        messages: &[Message],
        items: &[Item],
        offsets: Option<(TopicPartitionList, ConsumerGroupMetadata)>,
    ) -> Result<()> {
        let until = Instant::now() + self.config.transaction_timeout;
        let settles = offsets.is_some();
        if let Err(source) = self
            .call_until(until, |producer, _| producer.begin_transaction())
            .await?
        {
            return Err(self.end(until, &source, "begin a transaction").await);
        }
        let sent = self.publisher.send(messages, items, None).await;
        if let Some((index, failure)) = self.failure(sent, items).await {
            self.forget(messages, &failure);
            let error = match failure {
                Failure::Refused(error) => {
                    self.abort(until).await;
                    error
                }
                Failure::Client(source) => self.end(until, &source, "write in a transaction").await,
            };
            return Err(error.with("index", index));
        }
        if let Some((offsets, group)) = offsets {
            let offsets = Arc::new((offsets, group));
            let sent = self.call_until(until, move |producer, left| {
                producer.send_offsets_to_transaction(&offsets.0, &offsets.1, left)
            });
            if let Err(source) = sent.await? {
                return Err(self.end(until, &source, "settle in a transaction").await);
            }
        }
        let committed = self.call_until(until, Producer::commit_transaction);
        match committed.await? {
            Ok(()) => Ok(()),
            Err(source) if matches!(Next::after(&source), Next::Again) => {
                self.finish();
                Err(Error::new(
                    ErrorKind::Conflict,
                    "the brokers did not confirm the end of the transaction within \
                     `transaction_timeout`: it cannot be told whether it was written. See that they \
                     are up, and open a new one",
                )
                .operation("commit a transaction")
                .driver(DRIVER)
                // A subscription opened anew goes on from what is committed; a batch written again
                // might be there twice.
                .retryable(settles)
                .source(source))
            }
            Err(source) => Err(self.end(until, &source, "commit a transaction").await),
        }
    }

    /// Waits until all is written or the first has failed. What fails because others did is not it.
    async fn failure(&self, sent: Sent, items: &[Item]) -> Option<(usize, Failure)> {
        let Sent::Reports(mut reports) = sent else {
            return sent.failures(items).await.into_iter().next();
        };
        let failures = tokio::select! {
            biased;
            failures = reports.all_or_failure() => failures,
            failure = self.publisher.events().fatal() => {
                vec![(0, Failure::Client(KafkaError::Global(failure.code)))]
            }
        };
        failures.into_iter().next()
    }

    fn forget(&self, messages: &[Message], failure: &Failure) {
        let is_of_topic = matches!(
            failure,
            Failure::Client(KafkaError::MessageProduction(
                Code::UnknownTopic
                    | Code::UnknownTopicOrPartition
                    | Code::UnknownPartition
                    | Code::MessageSizeTooLarge
            ))
        );
        if is_of_topic {
            for message in messages {
                self.topics.forget(message.stream());
            }
        }
    }

    /// Ends a transaction that failed. The error says whether this producer can go on.
    async fn end(&self, until: Instant, source: &KafkaError, doing: &'static str) -> Error {
        let fatal = self.publisher.producer().client().fatal_error().is_some();
        if fatal || matches!(Next::after(source), Next::Finished) {
            self.finish();
            return finished().operation(doing).source(source.clone());
        }
        let error = error(source, doing);
        let is_retryable = match source {
            KafkaError::Transaction(source) => source.is_retriable() || error.is_retryable(),
            _ => error.is_retryable(),
        };
        if !self.abort(until).await {
            return finished().operation(doing).source(source.clone());
        }
        match error.kind() {
            // The reader's place is lost, not the producer's.
            ErrorKind::LeaseLost => error.retryable(true),
            _ => error.retryable(is_retryable),
        }
    }

    /// Gives a transaction up; `false` says that it could not, so that this producer is finished.
    async fn abort(&self, until: Instant) -> bool {
        // What time is left may be none, and giving up needs some.
        let until = until.max(Instant::now() + self.config.connect_timeout);
        let aborted = self.call_until(until, Producer::abort_transaction);
        let is_aborted = matches!(aborted.await, Ok(Ok(())));
        if !is_aborted {
            self.finish();
        }
        is_aborted
    }

    fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    async fn call_until(
        &self,
        until: Instant,
        call: impl Fn(&BaseProducer<Context>, Duration) -> KafkaResult<()> + Send + 'static,
    ) -> Result<KafkaResult<()>> {
        let left = until.saturating_duration_since(Instant::now());
        self.call(left, call).await
    }

    /// Calls what blocks, again where it says that it may go on, until its time is up.
    async fn call(
        &self,
        timeout: Duration,
        call: impl Fn(&BaseProducer<Context>, Duration) -> KafkaResult<()> + Send + 'static,
    ) -> Result<KafkaResult<()>> {
        let producer = self.publisher.producer().clone();
        let may_go_on = |source: &KafkaError| matches!(Next::after(source), Next::Again);
        Ok(attempts(timeout, move |left| call(&producer, left), may_go_on).await?)
    }
}

fn finished() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        "this transactional producer is finished: another has taken its id, or it has failed for \
         good; nothing was written. Open a new one and try again",
    )
    .driver(DRIVER)
    .retryable(true)
}

#[cfg(test)]
mod tests;
