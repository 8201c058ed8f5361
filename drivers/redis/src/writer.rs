//! Writing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisResult, Value};
use streams_core::{
    Capabilities, Error, ErrorKind, Message, MessageId, Result, Scheduled, StreamName, WriteError,
    Writer, async_trait,
};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::config::TimeToLive;
use crate::error::{error, failed};
use crate::group::millis;
use crate::{DRIVER, Inner, message, scripts};

pub(crate) struct RedisWriter {
    inner: Arc<Inner>,
    capabilities: Capabilities,
    /// Whether it is closed. Writes hold it shared, so that closing waits for them.
    closed: RwLock<bool>,
}

/// Why messages of a batch were not written, each with its place in it.
pub(crate) type Failures = Vec<(usize, Error)>;

/// The messages of a batch that go to one stream, each with its place in it.
pub(crate) type OfStream<'a> = Vec<(usize, &'a Message)>;

impl RedisWriter {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            capabilities: inner.config.capabilities(),
            inner,
            closed: RwLock::new(false),
        }
    }

    /// Begins a write, unless closed.
    async fn begin(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let closed = self.closed.read().await;
        if *closed {
            return Err(Error::closed("the writer").driver(DRIVER));
        }
        Ok(closed)
    }

    async fn write_all(
        &self,
        batch: &[Message],
        due: Option<SystemTime>,
    ) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let _begun = match self.begin().await {
            Ok(begun) => begun,
            Err(closed) => return Err(WriteError::new(WriteError::same(closed, 0..batch.len()))),
        };
        let (streams, mut failures) = self.inner.sort(batch);
        let put = |(stream, messages)| self.inner.put(stream, messages, due);
        failures.extend(
            join_all(streams.into_iter().map(put))
                .await
                .into_iter()
                .flatten(),
        );
        match failures.is_empty() {
            true => Ok(()),
            false => Err(WriteError::new(failures)),
        }
    }
}

impl Inner {
    /// The messages that can be written, by stream; and why others cannot.
    fn sort<'a>(&self, batch: &'a [Message]) -> (Vec<(&'a StreamName, OfStream<'a>)>, Failures) {
        let mut failures = Failures::new();
        let mut streams: Vec<(&StreamName, OfStream<'a>)> = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            if let Some(refused) = self.config.refuse(message) {
                failures.push((index, refused));
                continue;
            }
            // Nearly always it is that of the one before.
            let known = streams
                .iter_mut()
                .rev()
                .find(|(name, _)| *name == message.stream());
            match known {
                Some((_, all)) => all.push((index, message)),
                None => streams.push((message.stream(), vec![(index, message)])),
            }
        }
        (streams, failures)
    }

    async fn put(
        &self,
        stream: &StreamName,
        messages: OfStream<'_>,
        due: Option<SystemTime>,
    ) -> Failures {
        if let Some(due) = due {
            return self.schedule(stream, &messages, due).await;
        }
        let failures = match self.config.idempotent {
            Some(window) => self.add_once(stream, &messages, window).await,
            None => self.add(stream, &messages).await,
        };
        let added = messages.len() - failures.len();
        if added > 0 {
            self.trim_now_and_then(stream, added.try_into().unwrap_or(u64::MAX))
                .await;
        }
        failures
    }

    /// Adds messages to their stream, all in one round trip.
    async fn add(&self, stream: &StreamName, messages: &OfStream<'_>) -> Failures {
        const DOING: &str = "write";
        let key = self.keys(stream).stream;
        let mut pipeline = Pipeline::with_capacity(messages.len());
        pipeline.ignore_errors();
        for (_, message) in messages {
            pipeline.add_command(message::add(&key, message, self.config.create_streams));
        }
        self.live(&mut pipeline, &key);
        let answers: RedisResult<Vec<RedisResult<Value>>> = self
            .link
            .call(async |connection| pipeline.query_async(connection).await)
            .await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(e) => {
                let failure = error(e, DOING).with("stream", stream);
                return WriteError::same(failure, messages.iter().map(|(index, _)| *index));
            }
        };
        let mut failures = Failures::new();
        for ((index, _), answer) in messages.iter().zip(answers) {
            match answer {
                Ok(Value::Nil) => failures.push((*index, missing(stream))),
                Ok(_) => {}
                Err(e) => failures.push((*index, error(e, DOING).with("stream", stream))),
            }
        }
        failures
    }
}

impl Inner {
    /// Adds messages to their stream, each unless it was added before.
    async fn add_once(
        &self,
        stream: &StreamName,
        messages: &OfStream<'_>,
        window: Duration,
    ) -> Failures {
        const DOING: &str = "write";
        let keys = self.keys(stream);
        let script = &*scripts::ADD;
        let mut pipeline = Pipeline::with_capacity(messages.len());
        pipeline.ignore_errors();
        for (_, message) in messages {
            let mut add = Cmd::with_capacity(20, message.size() + 256);
            add.arg("EVALSHA").arg(script.get_hash()).arg(2);
            add.arg(&keys.stream).arg(keys.added(message.id().as_str()));
            add.arg(millis(window))
                .arg(i32::from(self.config.create_streams));
            message::fields(message, |name, value| {
                add.arg(name).arg(value);
            });
            pipeline.add_command(add);
        }
        self.live(&mut pipeline, &keys.stream);
        let mut answers: RedisResult<Vec<RedisResult<i64>>> = self
            .link
            .call(async |connection| pipeline.query_async(connection).await)
            .await;
        let unknown = |answer: &RedisResult<i64>| {
            let no_script = redis::ErrorKind::Server(redis::ServerErrorKind::NoScript);
            answer.as_ref().is_err_and(|e| e.kind() == no_script)
        };
        if answers.as_ref().is_ok_and(|all| all.iter().any(unknown)) {
            // What was added meanwhile is not added again.
            answers = self
                .link
                .call(async |connection| {
                    script.load_async(connection).await?;
                    pipeline.query_async(connection).await
                })
                .await;
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(e) => {
                let failure = error(e, DOING).with("stream", stream);
                return WriteError::same(failure, messages.iter().map(|(index, _)| *index));
            }
        };
        let failure = |answer: RedisResult<i64>| match answer {
            Ok(1 | 2) => None,
            Ok(0) => Some(missing(stream)),
            Ok(_) => Some(
                failed(
                    ErrorKind::Conflict,
                    DOING,
                    "another message was written under this id; give this one an id of its own",
                )
                .with("stream", stream)
                .retryable(false),
            ),
            Err(e) => Some(error(e, DOING).with("stream", stream)),
        };
        let answers = messages.iter().zip(answers);
        answers
            .filter_map(|((index, _), answer)| Some((*index, failure(answer)?)))
            .collect()
    }

    /// Has the stream live as long as it is to.
    pub(crate) fn live(&self, pipeline: &mut Pipeline, key: &str) {
        let (time, when) = match self.config.time_to_live {
            None => return,
            Some(TimeToLive::Absolute(time)) => (time, Some("NX")),
            Some(TimeToLive::Sliding(time)) => (time, None),
        };
        pipeline.cmd("PEXPIRE").arg(key).arg(millis(time)).arg(when);
    }
}

pub(crate) fn missing(stream: &StreamName) -> Error {
    failed(
        ErrorKind::NotFound,
        "write",
        "the stream does not exist; make it with `Redis::create_stream`, or set `create_streams`",
    )
    .with("stream", stream)
}

#[async_trait]
impl Writer for RedisWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.write_all(batch, None).await
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.write_all(batch, Some(due)).await
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        let _begun = self.begin().await?;
        self.inner.cancel(stream, id).await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        let _begun = self.begin().await?;
        self.inner.scheduled(stream, limit).await
    }

    async fn flush(&self) -> Result<()> {
        // Writes that have begun hold it shared.
        drop(self.closed.write().await);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
