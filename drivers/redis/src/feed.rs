//! What reads one stream for a subscription: a task of its own, so that what the server has given is
//! not lost when `receive` is dropped. It reads as much as it was asked for, and only then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use streams_core::{Error, ErrorKind, Message, Result, StreamName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::Link;
use crate::cursor::Cursor;
use crate::entry::EntryId;
use crate::error::{error, is_no_group};
use crate::group::Group;
use crate::message;
use crate::reply::{self, Entry};
use crate::scheduled::Moving;

/// How long a feed waits at first before it tries again what failed, and at most.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// So many entries at once at most. With more, all that may be in flight would come in one answer, and while
/// it is handled nothing would be on its way.
const AT_ONCE: usize = 256;

/// A stream that is read: as a member of a group, or alone.
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) group: Option<Group>,
    /// How many deliveries of it are handed out, for what is said when its group is lost.
    pub(crate) held: AtomicU64,
    /// Scheduled messages come as long as somebody reads.
    pub(crate) _moving: Moving,
}

impl Stream {
    /// The group, if its entries must be settled.
    pub(crate) fn settles(&self) -> Option<&Group> {
        self.group.as_ref().filter(|group| !group.no_ack)
    }
}

/// An entry that was read.
pub(crate) struct Fetched {
    pub(crate) entry: EntryId,
    pub(crate) message: Message,
    pub(crate) attempt: u32,
}

/// What a feed has to say.
pub(crate) enum News {
    Entries {
        entries: Vec<Fetched>,
        /// When they were asked for: their leases have begun then at the earliest.
        since: Instant,
    },
    /// A bounded read is over.
    End,
    Failed(Error),
}

/// The subscription's side.
pub(crate) struct Feed {
    pub(crate) stream: Arc<Stream>,
    /// Asks for entries, at most so many. Dropped, the feed ends.
    requests: Option<mpsc::Sender<usize>>,
    task: Option<JoinHandle<()>>,
    /// Whether it was asked and has not answered yet.
    asked: bool,
    ended: bool,
}

impl Feed {
    /// Starts one; its news come under `number`.
    pub(crate) fn start(
        number: u64,
        stream: Arc<Stream>,
        cursor: Option<Cursor>,
        link: &Link,
        poll: Duration,
        news: mpsc::UnboundedSender<(u64, News)>,
    ) -> Self {
        let (requests, asked) = mpsc::channel(1);
        let reading = Reading {
            stream: stream.clone(),
            cursor,
            link: link.apart(poll),
            poll,
            requests: asked,
            next_claim: Instant::now(),
            failed: false,
        };
        let task = tokio::spawn(reading.run(number, news));
        Self {
            stream,
            requests: Some(requests),
            task: Some(task),
            asked: false,
            ended: false,
        }
    }

    /// Asks for entries, unless it was asked.
    pub(crate) fn ask(&mut self, most: usize) {
        if self.asked || self.ended {
            return;
        }
        if let Some(requests) = &self.requests {
            self.asked = requests.try_send(most.min(AT_ONCE)).is_ok();
        }
    }

    pub(crate) fn answered(&mut self) {
        self.asked = false;
    }

    /// Whether it is still to be read.
    pub(crate) fn is_open(&self) -> bool {
        self.requests.is_some()
    }

    /// Whether it was stopped, and nothing of it is on its way or handed out any more.
    pub(crate) fn is_finished(&self) -> bool {
        !self.is_open() && !self.asked && self.stream.held.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Lets it end, which takes up to a poll interval.
    pub(crate) fn stop(&mut self) {
        self.requests = None;
    }

    /// Ends it, and gives back what it has read.
    pub(crate) async fn leave(&mut self) -> Result<()> {
        self.stop();
        if let Some(task) = self.task.take() {
            // A panic in it has been said.
            let _ = task.await;
        }
        match &self.stream.group {
            Some(group) => group.leave().await,
            None => Ok(()),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The task's side.
struct Reading {
    stream: Arc<Stream>,
    cursor: Option<Cursor>,
    link: Link,
    poll: Duration,
    requests: mpsc::Receiver<usize>,
    next_claim: Instant,
    /// Something failed since entries were last claimed.
    failed: bool,
}

impl Reading {
    async fn run(mut self, number: u64, news: mpsc::UnboundedSender<(u64, News)>) {
        while let Some(most) = self.requests.recv().await {
            let found = self.fetch(most).await.unwrap_or_else(News::Failed);
            if news.send((number, found)).is_err() {
                return;
            }
        }
    }

    /// Waits for entries, over failures that may pass.
    async fn fetch(&mut self, most: usize) -> Result<News> {
        let mut wait = SHORTEST_WAIT;
        let mut failing_since = None;
        loop {
            let since = Instant::now();
            let failure = match self.look(most).await {
                Ok(Some(News::Entries { entries, .. })) if entries.is_empty() => None,
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(failure) => Some(failure),
            };
            if self.requests.is_closed() {
                let entries = Vec::new();
                return Ok(News::Entries { entries, since });
            }
            let Some(failure) = failure else {
                (wait, failing_since) = (SHORTEST_WAIT, None);
                continue;
            };
            // The server may be another now.
            (self.failed, self.next_claim) = (true, Instant::now());
            let failing = *failing_since.get_or_insert(since);
            // As long as leases last it is waited for.
            if !failure.is_retryable() || since - failing > self.patience() {
                return Err(failure);
            }
            if failing == since {
                tracing::warn!(
                    stream = %self.stream.name, error = %failure,
                    "receiving failed; trying again"
                );
            }
            sleep(wait).await;
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }

    fn patience(&self) -> Duration {
        let group = self.stream.group.as_ref();
        group.map_or(10 * LONGEST_WAIT, Group::lease)
    }

    /// Looks once; `None` says that there was nothing.
    async fn look(&mut self, most: usize) -> Result<Option<News>> {
        let stream = self.stream.clone();
        if let Some(cursor) = &mut self.cursor {
            return cursor.look(&self.link, &stream.name, most, self.poll).await;
        }
        let Some(group) = &stream.group else {
            return Ok(None);
        };
        match self.look_as_member(group, most).await {
            Err(e) if is_no_group(&e) => {
                group.reopen(stream.held.load(Ordering::Relaxed)).await?;
                Ok(None)
            }
            Err(e) => Err(error(e, "receive").with("stream", &stream.name)),
            Ok(found) => found.map(Some),
        }
    }

    async fn look_as_member(&mut self, group: &Group, most: usize) -> RedisResult<Result<News>> {
        let since = Instant::now();
        let entries = if since >= self.next_claim {
            let claimed = group.claim(most, self.failed).await?;
            self.failed = false;
            let next = claimed.wait.unwrap_or(self.poll).min(self.poll);
            self.next_claim = since + next.max(Duration::from_millis(1));
            claimed.entries
        } else {
            let read = group.read(most, self.next_claim - since);
            let entries = reply::read(query(&self.link, &read).await?)?;
            group.has_read(entries.len());
            entries.into_iter().map(|entry| (entry, 1)).collect()
        };
        Ok(decode(&self.stream.name, entries).map(|entries| News::Entries { entries, since }))
    }
}

pub(crate) async fn query(link: &Link, command: &Cmd) -> RedisResult<Value> {
    link.call(async |connection| command.query_async(connection).await)
        .await
}

pub(crate) fn decode(
    stream: &StreamName,
    entries: impl IntoIterator<Item = (Entry, u32)>,
) -> Result<Vec<Fetched>> {
    let entries = entries.into_iter().map(|((entry, fields), attempt)| {
        let message = message::decode(stream, entry, message::pairs(fields));
        Ok(Fetched {
            entry,
            message: message.map_err(|source| {
                Error::new(ErrorKind::Codec, "an entry is no message; see the cause")
                    .operation("receive")
                    .with("entry", entry)
                    .source(source)
            })?,
            attempt,
        })
    });
    entries.collect()
}
