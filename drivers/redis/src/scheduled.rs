//! Scheduled messages, and who moves them to their streams when they are due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use redis::{Cmd, RedisResult, Value};
use streams_core::{
    Error, ErrorKind, Message, MessageId, Result, Scheduled, StreamName, WriteError,
    from_unix_millis, unix_millis_not_before,
};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::client::Link;
use crate::entry::EntryId;
use crate::error::{error, failed};
use crate::keys::Keys;
use crate::writer::{Failures, OfStream, missing};
use crate::{Inner, message, metrics, scripts};

/// How many messages a script moves: it keeps everybody waiting.
const AT_ONCE: usize = 500;
/// Bodies have a number in front, by which those of one time are in order.
const NUMBER: usize = 16;
/// How long a mover waits at most when the server does not answer.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Inner {
    /// Schedules messages of one stream, in one script.
    pub(crate) async fn schedule(
        &self,
        stream: &StreamName,
        messages: &OfStream<'_>,
        due: SystemTime,
    ) -> Failures {
        const DOING: &str = "write_at";
        let keys = self.keys(stream);
        let script = &scripts::SCHEDULE;
        let mut schedule = script.prepare_invoke();
        schedule
            .key(&keys.stream)
            .key(keys.due())
            .key(keys.bodies());
        schedule
            .arg(unix_millis_not_before(due))
            .arg(self.config.max_scheduled.unwrap_or(0))
            .arg(i32::from(self.config.create_streams));
        for (_, message) in messages {
            schedule.arg(message.id().as_str()).arg(encode(message));
        }
        let answer: RedisResult<Vec<i64>> = self
            .link
            .call(async |connection| schedule.invoke_async(connection).await)
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => {
                let failure = error(e, DOING).with("stream", stream);
                return WriteError::same(failure, messages.iter().map(|(index, _)| *index));
            }
        };
        self.movers.nudge(self, stream);
        let failure = |answer| match answer {
            1 => None,
            0 => Some(missing(stream)),
            _ => Some(
                failed(
                    ErrorKind::Full,
                    DOING,
                    "as many messages are scheduled as may be; try again later, or raise \
                     `max_scheduled`",
                )
                .with("stream", stream),
            ),
        };
        let failures = messages.iter().zip(answer);
        failures
            .filter_map(|((index, _), answer)| Some((*index, failure(answer)?)))
            .collect()
    }

    /// Takes a scheduled message back.
    pub(crate) async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        let keys = self.keys(stream);
        let mut cancel = scripts::CANCEL.key(keys.due());
        cancel.key(keys.bodies()).arg(id.as_str());
        let answer: RedisResult<bool> = self
            .link
            .call(async |connection| cancel.invoke_async(connection).await)
            .await;
        answer.map_err(|e| error(e, "cancel").with("stream", stream))
    }

    /// The messages that are scheduled for a stream, those due first first, at most `limit`.
    pub(crate) async fn scheduled(
        &self,
        stream: &StreamName,
        limit: usize,
    ) -> Result<Vec<Scheduled>> {
        const DOING: &str = "scheduled";
        if limit == 0 {
            return Ok(Vec::new());
        }
        let last = i64::try_from(limit - 1).unwrap_or(i64::MAX);
        let keys = self.keys(stream);
        let mut list = Cmd::new();
        list.arg("ZRANGE").arg(keys.due()).arg(0).arg(last);
        list.arg("WITHSCORES");
        let waiting: Vec<(Vec<u8>, f64)> = self.link.command(&list, DOING).await?;
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = Cmd::new();
        get.arg("HMGET").arg(keys.bodies());
        for (member, _) in &waiting {
            get.arg(member.get(NUMBER..).unwrap_or_default());
        }
        let bodies: Vec<Value> = self.link.command(&get, DOING).await?;
        let mut all = Vec::with_capacity(bodies.len());
        for ((_, due), body) in waiting.into_iter().zip(bodies) {
            // One without was moved or cancelled between the two.
            if let Value::BulkString(body) = body {
                #[allow(clippy::cast_possible_truncation, reason = "milliseconds, as written")]
                let due = from_unix_millis(due as i64);
                let message = message::decode(stream, EntryId::MIN, decode(&body.into()))?;
                all.push(Scheduled::new(message, due));
            }
        }
        Ok(all)
    }
}

/// Names and values as an array of `MessagePack`, which scripts take apart in one go: its mark and length,
/// then each part behind its mark and length.
const ARRAY: u8 = 0xdc;
const TEXT: u8 = 0xdb;

fn encode(message: &Message) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.size() + 128);
    body.extend_from_slice(&[ARRAY, 0, 0]);
    let mut parts = 0_u16;
    let mut put = |bytes: &[u8]| {
        // A part is smaller than 512 MiB: the server takes no larger ones.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        body.push(TEXT);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(bytes);
        parts = parts.saturating_add(1);
    };
    message::fields(message, |name, value| {
        put(name);
        put(value);
    });
    body[1..3].copy_from_slice(&parts.to_be_bytes());
    body
}

fn decode(body: &Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut rest = body.slice((NUMBER + 3).min(body.len())..);
    let mut part = move || {
        let head = rest.split_to_checked(5)?;
        let length = u32::from_be_bytes(head[1..].try_into().ok()?);
        rest.split_to_checked(length.try_into().ok()?)
    };
    std::iter::from_fn(move || Some((part()?, part()?)))
}

trait SplitChecked {
    fn split_to_checked(&mut self, at: usize) -> Option<Bytes>;
}

impl SplitChecked for Bytes {
    fn split_to_checked(&mut self, at: usize) -> Option<Bytes> {
        (at <= self.len()).then(|| self.split_to(at))
    }
}

/// The tasks that move what is due: one for each stream that is read here, or that was written to
/// here for later as long as anything waits. Many processes may move at once.
pub(crate) struct Movers {
    inner: Weak<Inner>,
    of: Arc<Mutex<HashMap<StreamName, Mover>>>,
}

struct Mover {
    readers: usize,
    /// Something was scheduled since it last looked.
    nudged: bool,
    task: AbortHandle,
}

/// Keeps a stream's mover as long as it is there.
pub(crate) struct Moving {
    stream: StreamName,
    movers: Arc<Mutex<HashMap<StreamName, Mover>>>,
}

impl Drop for Moving {
    fn drop(&mut self) {
        let mut movers = self.movers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mover) = movers.get_mut(&self.stream) {
            // It ends by itself when nothing is scheduled any more.
            mover.readers -= 1;
        }
    }
}

impl Movers {
    pub(crate) fn new(inner: Weak<Inner>) -> Self {
        Self {
            inner,
            of: Arc::default(),
        }
    }

    /// Moves what is due of a stream as long as the answer lives.
    pub(crate) fn keep(&self, inner: &Inner, stream: &StreamName) -> Moving {
        self.with(inner, stream, |mover| mover.readers += 1);
        Moving {
            stream: stream.clone(),
            movers: self.of.clone(),
        }
    }

    /// Moves what is due of a stream until nothing waits any more.
    fn nudge(&self, inner: &Inner, stream: &StreamName) {
        self.with(inner, stream, |mover| mover.nudged = true);
    }

    fn with(&self, inner: &Inner, stream: &StreamName, change: impl FnOnce(&mut Mover)) {
        let mut movers = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let mover = movers.entry(stream.clone()).or_insert_with(|| Mover {
            readers: 0,
            nudged: true,
            task: self.spawn(inner, stream),
        });
        if mover.task.is_finished() {
            // Its runtime has ended.
            mover.task = self.spawn(inner, stream);
        }
        change(mover);
    }

    fn spawn(&self, inner: &Inner, stream: &StreamName) -> AbortHandle {
        let work = Work {
            inner: self.inner.clone(),
            link: inner.link.clone(),
            keys: inner.keys(stream),
            stream: stream.clone(),
            tick: inner.config.tick,
            movers: self.of.clone(),
        };
        tokio::spawn(work.run()).abort_handle()
    }
}

impl Drop for Movers {
    fn drop(&mut self) {
        let movers = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        movers.values().for_each(|mover| mover.task.abort());
    }
}

/// What a mover works with.
struct Work {
    inner: Weak<Inner>,
    link: Arc<Link>,
    keys: Keys,
    stream: StreamName,
    tick: Duration,
    movers: Arc<Mutex<HashMap<StreamName, Mover>>>,
}

impl Work {
    async fn run(self) {
        let mut wait = self.tick;
        let mut failing = false;
        loop {
            self.look_again();
            match self.move_due().await {
                Ok((taken, _)) if taken == AT_ONCE => {
                    failing = false;
                    continue;
                }
                Ok((_, next)) => {
                    failing = false;
                    if next.is_none() && self.is_over() {
                        return;
                    }
                    wait = next
                        .unwrap_or(self.tick)
                        .clamp(Duration::from_millis(1), self.tick);
                }
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        let stream = &self.stream;
                        tracing::warn!(%stream, error = %e, "what is due cannot be moved; trying again");
                    }
                    wait = (2 * wait).min(LONGEST_WAIT);
                }
            }
            sleep(wait).await;
        }
    }

    fn look_again(&self) {
        let mut movers = self.movers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mover) = movers.get_mut(&self.stream) {
            mover.nudged = false;
        }
    }

    /// Ends the mover unless somebody wants it.
    fn is_over(&self) -> bool {
        let mut movers = self.movers.lock().unwrap_or_else(PoisonError::into_inner);
        let unwanted = |mover: &Mover| mover.readers == 0 && !mover.nudged;
        if movers.get(&self.stream).is_some_and(unwanted) {
            movers.remove(&self.stream);
            return true;
        }
        false
    }

    /// How many were moved, and when the next is due.
    async fn move_due(&self) -> Result<(usize, Option<Duration>), Error> {
        let mut script = scripts::MOVE.key(&self.keys.stream);
        script
            .key(self.keys.due())
            .key(self.keys.bodies())
            .arg(AT_ONCE);
        let answer: RedisResult<(usize, i64, u64)> = self
            .link
            .call(async |connection| script.invoke_async(connection).await)
            .await;
        let (taken, wait, gone) = answer.map_err(|e| error(e, "move"))?;
        metrics::lost(&self.stream, "", "evicted", gone);
        let added = (taken as u64).saturating_sub(gone);
        if added > 0
            && let Some(inner) = self.inner.upgrade()
        {
            inner.keep_short(&self.stream, added).await;
        }
        Ok((taken, wait.try_into().ok().map(Duration::from_millis)))
    }
}
