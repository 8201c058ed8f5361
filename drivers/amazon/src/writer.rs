//! Writing, to queues as to topics.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::join_all;
use streams_core::{
    Capabilities, Error, ErrorKind, Message, Result, StreamName, WriteError, Writer, unix_millis,
};
use tokio::sync::{RwLock, Semaphore};

use crate::batches::{Done, Item, batches};
use crate::error::Problem;
use crate::limits::Limits;
use crate::message::{DUE, Encoded};
use crate::names::Place;
use crate::text::{deduplication_id, id_of};

/// The longest that SQS delays a message.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(900);

/// Where batches are sent to: SQS, or SNS.
pub(crate) trait Post: Send + Sync + 'static {
    fn capabilities(&self) -> &Capabilities;
    fn limits(&self) -> &Limits;
    /// For each request.
    fn sending(&self) -> &Semaphore;
    /// Whether queues or topics are created.
    fn creates(&self) -> bool;
    /// The queue or topic of a stream, created if it is missing and that is wanted.
    fn place(
        &self,
        stream: &StreamName,
    ) -> impl Future<Output = Result<Arc<Place>, Problem>> + Send;
    /// Looks for the queue or topic anew next time.
    fn forget(&self, stream: &StreamName);
    /// The message as it is sent.
    fn encode(&self, message: &Message) -> Result<Encoded>;
    /// Sends one batch. Says what came of each, or why nobody knows.
    fn post(
        &self,
        place: &Place,
        batch: &[Item],
    ) -> impl Future<Output = Result<Vec<Done>, Problem>> + Send;
}

pub(crate) struct BatchWriter<P> {
    post: Arc<P>,
    /// Whether it is closed. Writes hold it for reading, so that who wants it for writing waits for
    /// them.
    closed: RwLock<bool>,
}

impl<P: Post> BatchWriter<P> {
    pub(crate) fn new(post: Arc<P>) -> Self {
        Self {
            post,
            closed: RwLock::new(false),
        }
    }

    async fn send(
        &self,
        batch: &[Message],
        due: Option<SystemTime>,
        doing: &'static str,
    ) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let driver = self.post.capabilities().driver;
        let closed = self.closed.read().await;
        if *closed {
            let error = || Error::closed("the writer").operation(doing).driver(driver);
            return Err(WriteError::all(batch.len(), error));
        }
        let mut writing = Writing {
            post: &*self.post,
            driver,
            doing,
            due,
            failures: Vec::new(),
        };
        writing.write(batch).await;
        drop(closed);
        if writing.failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(writing.failures))
        }
    }
}

#[async_trait]
impl<P: Post> Writer for BatchWriter<P> {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.send(batch, None, "write").await
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.send(batch, Some(due), "write_at").await
    }

    async fn flush(&self) -> Result<()> {
        // A write is over when it is confirmed.
        drop(self.closed.write().await);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        self.post.capabilities()
    }
}

/// One call of `write`.
struct Writing<'a, P> {
    post: &'a P,
    driver: &'static str,
    doing: &'static str,
    due: Option<SystemTime>,
    failures: Vec<(usize, Error)>,
}

/// What goes to one queue or topic.
struct Load<'a> {
    stream: &'a StreamName,
    place: Arc<Place>,
    items: Vec<Item>,
}

impl<P: Post> Writing<'_, P> {
    async fn write(&mut self, batch: &[Message]) {
        let mut loads: Vec<Load<'_>> = Vec::new();
        let mut missing: HashMap<&StreamName, Problem> = HashMap::new();
        for (index, message) in batch.iter().enumerate() {
            let stream = message.stream();
            let mut load = loads.iter_mut().position(|load| load.stream == stream);
            if load.is_none() && !missing.contains_key(stream) {
                match self.post.place(stream).await {
                    Ok(place) => {
                        load = Some(loads.len());
                        loads.push(Load {
                            stream,
                            place,
                            items: Vec::with_capacity(batch.len() - index),
                        });
                    }
                    Err(problem) => {
                        missing.insert(stream, problem);
                    }
                }
            }
            let Some(load) = load.map(|at| &mut loads[at]) else {
                if let Some(problem) = missing.get(stream) {
                    self.fail_with(index, problem, stream);
                }
                continue;
            };
            match self.item(index, message, load.place.is_fifo) {
                Ok(item) => load.items.push(item),
                Err(error) => {
                    let error = error.operation(self.doing).driver(self.driver);
                    self.failures.push((index, error));
                }
            }
        }
        let post = self.post;
        let largest = post.limits().largest_request;
        let sent = loads.into_iter().map(|load| async move {
            let Load {
                stream,
                place,
                items,
            } = load;
            let batches = batches(items, largest);
            let failed = if place.is_fifo {
                send_in_order(post, stream, &place, batches).await
            } else {
                let all = batches.into_iter();
                let all = all.map(|batch| send(post, stream, &place, batch));
                join_all(all).await.into_iter().flatten().collect()
            };
            (stream, failed)
        });
        for (stream, failed) in join_all(sent).await {
            for (item, problem) in failed {
                self.fail_with(item.index, &problem, stream);
            }
        }
    }

    fn fail_with(&mut self, index: usize, problem: &Problem, stream: &StreamName) {
        let error = problem.error(self.doing).driver(self.driver);
        self.failures.push((index, error.with("stream", stream)));
    }

    /// The message as it is sent.
    fn item(&self, index: usize, message: &Message, is_fifo: bool) -> Result<Item> {
        let limits = self.post.limits();
        let largest = limits.largest_message();
        let too_large = |size: usize, limit: usize, what: &str| {
            Error::new(ErrorKind::TooLarge, what)
                .with("bytes", size)
                .with("limit", limit)
        };
        if message.data().len() > largest {
            return Err(too_large(
                message.data().len(),
                largest,
                "the message is larger than the driver takes; split it, or raise `largest_message`",
            ));
        }
        let mut encoded = self.post.encode(message)?;
        let mut delay = 0;
        if let Some(due) = self.due {
            if self.post.capabilities().delay.is_none() && !is_fifo {
                return Err(Error::unsupported(
                    self.driver,
                    "there is no delay here; write the messages when they are due",
                ));
            }
            if is_fifo {
                return Err(Error::unsupported(
                    self.driver,
                    "a FIFO queue delays all messages alike; schedule on a stream whose queue is not",
                )
                .with("stream", message.stream()));
            }
            let wait = due.duration_since(SystemTime::now()).unwrap_or_default();
            if wait > LONGEST_DELAY {
                let due = unix_millis(due).to_string();
                encoded.attributes.push((DUE.to_owned(), due));
            }
            delay = whole_seconds(wait.min(LONGEST_DELAY));
        }
        let size = encoded.size();
        if size > limits.largest_request {
            return Err(too_large(
                size,
                limits.largest_request,
                "the message is larger than a request may be, headers included; split it, or raise \
                 `largest_request`",
            ));
        }
        let fifo = is_fifo.then(|| {
            let id = message.id().as_str().as_bytes();
            // Without a key it waits for no other.
            let group = message.key().map_or(id, |key| key.as_bytes());
            (id_of(group).into_owned(), deduplication_id(message))
        });
        Ok(Item {
            index,
            encoded,
            size,
            delay,
            fifo,
        })
    }
}

/// Whole seconds, not less than the time.
pub(crate) fn whole_seconds(time: Duration) -> i32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

type Failed = Vec<(Item, Problem)>;

/// Sends batch after batch, and nothing of a group of which something failed: it would come before
/// that.
async fn send_in_order<P: Post>(
    post: &P,
    stream: &StreamName,
    place: &Place,
    batches: Vec<Vec<Item>>,
) -> Failed {
    let mut all: Failed = Vec::new();
    let mut failed_groups: HashSet<String> = HashSet::new();
    for batch in batches {
        let is_behind = |item: &Item| failed_groups.contains(item.group());
        let (behind, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_behind);
        all.extend(behind.into_iter().map(|item| (item, is_behind_another())));
        if batch.is_empty() {
            continue;
        }
        let places: Vec<_> = batch
            .iter()
            .map(|i| (i.index, i.group().to_owned()))
            .collect();
        let mut failed = send(post, stream, place, batch).await;
        let has_failed: HashSet<_> = failed.iter().map(|(item, _)| item.index).collect();
        for (item, problem) in &mut failed {
            let mut later = places.iter().filter(|(index, group)| {
                *index > item.index && group == item.group() && !has_failed.contains(index)
            });
            if problem.is_retryable() && later.next().is_some() {
                *problem = is_overtaken();
            }
        }
        failed_groups.extend(failed.iter().map(|(item, _)| item.group().to_owned()));
        all.extend(failed);
    }
    all
}

/// Sends one batch; says what was not written.
async fn send<P: Post>(post: &P, stream: &StreamName, place: &Place, batch: Vec<Item>) -> Failed {
    let mut sent = try_send(post, place, &batch).await;
    if matches!(&sent, Err(problem) if problem.kind == ErrorKind::NotFound) {
        // It was deleted since it was found.
        post.forget(stream);
        if post.creates() {
            sent = match post.place(stream).await {
                Ok(place) => try_send(post, &place, &batch).await,
                Err(problem) => Err(problem),
            };
        }
    }
    match sent {
        Ok(done) => {
            let failed = batch.into_iter().zip(done);
            failed
                .filter_map(|(item, done)| Some((item, done.err()?)))
                .collect()
        }
        Err(problem) => {
            let failed = batch.into_iter().map(|item| (item, problem.clone()));
            failed.collect()
        }
    }
}

async fn try_send<P: Post>(post: &P, place: &Place, batch: &[Item]) -> Result<Vec<Done>, Problem> {
    // It is never closed.
    let _permit = post.sending().acquire().await;
    post.post(place, batch).await
}

/// Every field that the SDK wants is set; were one not, this says so.
pub(crate) fn incomplete(_: aws_smithy_types::error::operation::BuildError) -> Problem {
    Problem::new(
        ErrorKind::Other,
        "the request lacks a field, which is a bug of the driver; report it",
    )
}

fn is_behind_another() -> Problem {
    Problem::new(
        ErrorKind::Conflict,
        "an earlier message of its key was not written, before which it must not be; write both \
         again",
    )
}

fn is_overtaken() -> Problem {
    Problem::new(
        ErrorKind::Conflict,
        "the message was not written, and later ones of its key were; write it again if it may come \
         after them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
