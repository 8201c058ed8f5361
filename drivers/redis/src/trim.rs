//! Keeping streams short.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, RedisResult, Value};
use streams_core::{Result, StreamName};
use tokio::time::Instant;

use crate::error::error;
use crate::message;
use crate::{Inner, metrics, scripts};

/// Streams are looked at after so many writes at most.
const MOST_WRITES: u64 = 1000;
/// How often it is said that a group is behind.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How many entries were added to streams since they were looked at.
#[derive(Debug, Default)]
pub(crate) struct Added(Mutex<HashMap<StreamName, OfStream>>);

#[derive(Debug, Default)]
struct OfStream {
    added: u64,
    said: Option<Instant>,
}

impl Added {
    /// Whether it is time to look at the stream.
    fn note(&self, stream: &StreamName, added: u64, every: u64) -> bool {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !streams.contains_key(stream) {
            // What this process did not add counts too: look at once.
            streams.insert(stream.clone(), OfStream::default());
            return true;
        }
        let Some(of) = streams.get_mut(stream) else {
            return false;
        };
        of.added += added;
        let due = of.added >= every;
        if due {
            of.added = 0;
        }
        due
    }

    /// Whether to say that a group is behind.
    fn says(&self, stream: &StreamName) -> bool {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = &mut streams.entry(stream.clone()).or_default().said;
        let says = said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if says {
            *said = Some(Instant::now());
        }
        says
    }
}

impl Inner {
    /// Does to a stream to which scheduled messages were added what is done when it is written to.
    pub(crate) async fn keep_short(&self, stream: &StreamName, added: u64) {
        let mut pipeline = Pipeline::new();
        self.live(&mut pipeline, &self.keys(stream).stream);
        if !pipeline.is_empty() {
            let done: RedisResult<()> = self
                .link
                .call(async |connection| pipeline.exec_async(connection).await)
                .await;
            if let Err(error) = done {
                tracing::warn!(%stream, %error, "the stream's time to live could not be set");
            }
        }
        self.trim_now_and_then(stream, added).await;
    }

    /// Shortens the stream now and then. What goes wrong is said, and tried again later.
    pub(crate) async fn trim_now_and_then(&self, stream: &StreamName, added: u64) {
        let Some(keep) = self.config.max_len else {
            return;
        };
        let every = (keep / 10).clamp(1, MOST_WRITES);
        if self.added.note(stream, added, every)
            && let Err(error) = self.trim(stream, keep).await
        {
            tracing::warn!(%stream, %error, "the stream could not be trimmed; trying again later");
        }
    }

    async fn trim(&self, stream: &StreamName, keep: u64) -> Result<()> {
        let failed = |e| error(e, "trim").with("stream", stream);
        let keys = self.keys(stream);
        let mut trim = scripts::TRIM.key(&keys.stream);
        trim.arg(keep)
            .arg(i32::from(self.config.trim_unread))
            .arg(keys.facts(""));
        let answer: RedisResult<Vec<Value>> = self
            .link
            .call(async |connection| trim.invoke_async(connection).await)
            .await;
        let mut answer = answer.map_err(failed)?.into_iter();
        answer.next();
        while let (Some(group), Some(Value::Int(lost))) = (answer.next(), answer.next()) {
            let group = String::from_utf8_lossy(&message::bytes(group)).into_owned();
            match u64::try_from(lost) {
                Ok(0) | Err(_) => {
                    if self.added.says(stream) {
                        tracing::warn!(
                            %stream, group, max_len = keep,
                            "the stream is longer than it is to be, for this group is behind; \
                             have it read, delete it, or set `trim_unread`"
                        );
                    }
                }
                Ok(lost) => metrics::lost(stream, &group, "trimmed", lost),
            }
        }
        Ok(())
    }
}
