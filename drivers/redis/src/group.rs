//! A consumer group on the server, as one member of it sees it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use streams_core::{Error, ErrorKind, Result, StreamName};

use crate::DRIVER;
use crate::client::Link;
use crate::entry::EntryId;
use crate::error::{error, failed, is_no_group, is_no_key};
use crate::keys::Keys;
use crate::reply::{self, Entry, entry_id};
use crate::{metrics, scripts};

/// What the consumers of this crate's own begin with.
const OURS: &str = "streams-";
/// The consumer that has what comes again at a time.
const PARKING: &str = "streams-parked";
/// A consumer that has nothing and was not heard of for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// A member of a group, and the group.
pub(crate) struct Group {
    link: Arc<Link>,
    keys: Keys,
    pub(crate) stream: StreamName,
    pub(crate) name: String,
    consumer: String,
    lease: Duration,
    create: bool,
    /// How many entries were unread when last looked at, for what is said when they are gone.
    unread: AtomicU64,
}

/// Entries taken over from others, or come due.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Each with the number of its deliveries.
    pub(crate) entries: Vec<(Entry, u32)>,
    /// When the next is due.
    pub(crate) wait: Option<Duration>,
}

/// What was not there any more when a group was opened again.
enum Lost {
    Nothing,
    Group,
    Stream,
}

/// A delivery on the server: its entry, and which of its deliveries it is.
pub(crate) type Taken = (EntryId, u32);

/// Settlements of one stream, by what becomes of them.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    /// Done, and surely this member's: that needs not be asked.
    pub(crate) ours: Vec<EntryId>,
    /// Done, if they are still this member's.
    pub(crate) done: Vec<Taken>,
    /// Each with the time after which it comes again; `None` gives it back uncounted.
    pub(crate) again: Vec<(Taken, Option<Duration>)>,
}

impl Group {
    /// Opens a group, which is made if it is not there and begins after `start`, or after the last
    /// entry.
    pub(crate) async fn open(
        link: Arc<Link>,
        keys: Keys,
        stream: &StreamName,
        name: &str,
        start: Option<EntryId>,
        lease: Duration,
        create: bool,
    ) -> Result<Self> {
        let mut this = Self {
            link,
            keys,
            stream: stream.clone(),
            name: name.to_owned(),
            consumer: format!("{OURS}{:016x}", fastrand::u64(..)),
            lease,
            create,
            unread: AtomicU64::new(0),
        };
        let (kept, _) = this.make(start, false).await?;
        if kept != lease {
            return Err(Error::invalid_config(
                "the group was made with another lease, which all its members have; use that one, \
                 or change it for all with `Redis::set_lease`",
            )
            .operation("subscribe")
            .driver(DRIVER)
            .with("stream", stream)
            .with("group", name)
            .with("lease", format!("{lease:?}"))
            .with("group's lease", format!("{kept:?}")));
        }
        this.lease = kept;
        Ok(this)
    }

    /// Makes the group anew after it was lost, where it was before. `held` are the deliveries here
    /// that cannot be settled any more.
    pub(crate) async fn reopen(&self, held: u64) -> Result<()> {
        let (_, lost) = self.make(Some(EntryId::MIN), true).await?;
        match lost {
            Lost::Nothing => {}
            Lost::Group => tracing::warn!(
                stream = %self.stream, group = %self.name,
                "the group was gone and is made anew; what it had not settled comes again"
            ),
            Lost::Stream => {
                tracing::warn!(
                    stream = %self.stream, group = %self.name,
                    "the server has lost the stream; it begins anew"
                );
                let unread = self.unread.swap(0, Ordering::Relaxed);
                metrics::lost(&self.stream, &self.name, "server", held + unread);
            }
        }
        Ok(())
    }

    /// Makes the group unless it is there; returns its lease.
    async fn make(&self, start: Option<EntryId>, known: bool) -> Result<(Duration, Lost)> {
        const DOING: &str = "subscribe";
        let start = start.map_or_else(|| "$".to_owned(), |id| id.to_string());
        let script = &scripts::OPEN;
        let mut open = script.prepare_invoke();
        self.with_keys(&mut open)
            .arg(&self.name)
            .arg(start)
            .arg(i32::from(self.create))
            .arg(millis(self.lease))
            .arg(i32::from(known));
        let answer: Vec<Value> = self
            .link
            .call(async |connection| open.invoke_async(connection).await)
            .await
            .map_err(|e| error(e, DOING).with("stream", &self.stream))?;
        match answer.as_slice() {
            [Value::Int(0)] => Err(failed(
                ErrorKind::NotFound,
                DOING,
                "the stream does not exist; make it with `Redis::create_stream`, or set \
                 `create_streams`",
            )
            .with("stream", &self.stream)),
            [Value::Int(1), Value::Int(lost), Value::Int(lease)] => {
                let lost = match lost {
                    0 => Lost::Nothing,
                    1 => Lost::Group,
                    _ => Lost::Stream,
                };
                Ok((
                    Duration::from_millis((*lease).try_into().unwrap_or(0)),
                    lost,
                ))
            }
            _ => Err(failed(
                ErrorKind::Other,
                DOING,
                "the answer to a script is not understood",
            )),
        }
    }

    /// The command that waits for new entries.
    pub(crate) fn read(&self, most: usize, block: Duration, no_ack: bool) -> Cmd {
        let mut read = Cmd::new();
        read.arg("XREADGROUP").arg("GROUP");
        read.arg(&self.name).arg(&self.consumer);
        read.arg("COUNT").arg(most);
        // 0 would be for ever.
        read.arg("BLOCK").arg(millis(block).max(1));
        if no_ack {
            read.arg("NOACK");
        }
        read.arg("STREAMS").arg(&self.keys.stream).arg(">");
        read
    }

    /// Takes what is free or left behind.
    pub(crate) async fn claim(&self, most: usize) -> RedisResult<Claimed> {
        let script = &scripts::CLAIM;
        let mut claim = script.prepare_invoke();
        self.with_keys(&mut claim)
            .arg(&self.name)
            .arg(&self.consumer)
            .arg(PARKING)
            .arg(most)
            .arg(millis(self.lease))
            .arg(OURS)
            .arg(millis(FORGET.max(10 * self.lease)));
        let answer: (Value, Vec<u32>, i64, u64, u64, u64) = self
            .link
            .call(async |connection| claim.invoke_async(connection).await)
            .await?;
        let (entries, counts, wait, gone, trimmed, unread) = answer;
        self.unread.store(unread, Ordering::Relaxed);
        metrics::lost(&self.stream, &self.name, "trimmed", gone + trimmed);
        Ok(Claimed {
            entries: reply::entries(entries)?.into_iter().zip(counts).collect(),
            wait: wait.try_into().ok().map(Duration::from_millis),
        })
    }

    /// Settles; returns the entries that were not this member's any more.
    pub(crate) async fn settle(&self, settling: &Settling) -> Result<Vec<EntryId>> {
        let mut lost = self.acknowledge(&settling.ours).await?;
        if !settling.done.is_empty() || !settling.again.is_empty() {
            lost.extend(self.settle_if_ours(settling).await?);
        }
        Ok(lost)
    }

    /// Acknowledges without asking whose they are: that of many costs as much as a few in a script.
    async fn acknowledge(&self, entries: &[EntryId]) -> Result<Vec<EntryId>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut acknowledge = Cmd::with_capacity(entries.len() + 3, 24 * entries.len() + 128);
        acknowledge
            .arg("XACK")
            .arg(&self.keys.stream)
            .arg(&self.name);
        let mut text = String::with_capacity(24);
        for entry in entries {
            text.clear();
            let _ = write!(text, "{entry}"); // into memory: it cannot fail
            acknowledge.arg(&text);
        }
        let known: usize = self.link.command(&acknowledge, "settle").await?;
        match known {
            // The group is not the one they are of any more.
            0 => Ok(entries.to_vec()),
            _ if known < entries.len() => {
                tracing::warn!(
                    stream = %self.stream, group = %self.name,
                    handled = entries.len(), known,
                    "another member has taken entries within their lease; they were handled twice"
                );
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn settle_if_ours(&self, settling: &Settling) -> Result<Vec<EntryId>> {
        let script = &scripts::SETTLE;
        let mut settle = script.prepare_invoke();
        self.with_keys(&mut settle)
            .arg(&self.name)
            .arg(&self.consumer)
            .arg(PARKING)
            .arg(settling.done.len());
        for (entry, count) in &settling.done {
            settle.arg(entry.to_string()).arg(*count);
        }
        for ((entry, count), delay) in &settling.again {
            settle.arg(entry.to_string()).arg(*count);
            match delay {
                Some(delay) => settle.arg(millis_up(*delay)),
                None => settle.arg(-1),
            };
        }
        let answer: RedisResult<(Vec<Value>, u64)> = self
            .link
            .call(async |connection| settle.invoke_async(connection).await)
            .await;
        let (lost, gone) = match answer {
            Ok(answer) => answer,
            Err(e) if is_no_group(&e) => {
                let again = settling.again.iter().map(|(taken, _)| taken);
                let all = settling.done.iter().chain(again);
                return Ok(all.map(|(entry, _)| *entry).collect());
            }
            Err(e) => return Err(error(e, "settle").with("stream", &self.stream)),
        };
        metrics::lost(&self.stream, &self.name, "trimmed", gone);
        let lost = lost.iter().map(entry_id).collect::<RedisResult<_>>();
        lost.map_err(|e| error(e, "settle"))
    }

    /// Makes leases last until `by` from now, at most as long as a lease; returns the entries that
    /// were not this member's any more.
    pub(crate) async fn extend(&self, taken: &[Taken], by: Duration) -> Result<Vec<EntryId>> {
        let script = &scripts::EXTEND;
        let mut extend = script.prepare_invoke();
        extend
            .key(&self.keys.stream)
            .key(self.keys.facts(&self.name))
            .arg(&self.name)
            .arg(&self.consumer)
            .arg(millis(by))
            .arg(millis(self.lease));
        for (entry, count) in taken {
            extend.arg(entry.to_string()).arg(*count);
        }
        let answer: RedisResult<Vec<Value>> = self
            .link
            .call(async |connection| extend.invoke_async(connection).await)
            .await;
        let lost = match answer {
            Ok(lost) => lost,
            Err(e) if is_no_group(&e) => {
                return Ok(taken.iter().map(|(entry, _)| *entry).collect());
            }
            Err(e) => return Err(error(e, "extend").with("stream", &self.stream)),
        };
        let lost = lost.iter().map(entry_id).collect::<RedisResult<_>>();
        lost.map_err(|e| error(e, "extend"))
    }

    /// Gives back all this member has, and forgets it.
    pub(crate) async fn leave(&self) -> Result<()> {
        let script = &scripts::LEAVE;
        let mut leave = script.prepare_invoke();
        self.with_keys(&mut leave)
            .arg(&self.name)
            .arg(&self.consumer)
            .arg(PARKING);
        let answer: RedisResult<Value> = self
            .link
            .call(async |connection| leave.invoke_async(connection).await)
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(e) if is_no_group(&e) => Ok(()),
            Err(e) if is_no_key(&e) => Ok(()),
            Err(e) => Err(error(e, "close").with("stream", &self.stream)),
        }
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    fn with_keys<'a, 'b>(
        &self,
        script: &'b mut redis::ScriptInvocation<'a>,
    ) -> &'b mut redis::ScriptInvocation<'a>
    where
        'a: 'b,
    {
        script
            .key(&self.keys.stream)
            .key(self.keys.facts(&self.name))
            .key(self.keys.parked(&self.name))
    }
}

/// Whole milliseconds; a time that is too long is the longest.
pub(crate) fn millis(time: Duration) -> u64 {
    // Scripts count in doubles.
    u64::try_from(time.as_millis())
        .unwrap_or(u64::MAX)
        .min(1 << 50)
}

/// Whole milliseconds, not less than the time: for what may not be early.
pub(crate) fn millis_up(time: Duration) -> u64 {
    millis(time + Duration::from_nanos(999_999))
}
