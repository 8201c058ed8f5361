//! A consumer group on the server, as one member of it sees it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};
use streams_core::{Error, ErrorKind, Result, StreamName};

use crate::DRIVER;
use crate::client::Link;
use crate::config::Config;
use crate::entry::EntryId;
use crate::error::{error, failed, is_no_group, is_no_key};
use crate::keys::Keys;
use crate::pulse::Sink;
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
    sink: Option<Sink>,
    pub(crate) stream: StreamName,
    pub(crate) name: String,
    consumer: String,
    lease: Duration,
    create: bool,
    /// Whether what is read counts as acknowledged.
    pub(crate) no_ack: bool,
    /// How many entries were unread when last looked at, for what is said when they are gone.
    unread: AtomicU64,
    /// How many entries were added to the stream then, and how many of them the group had read.
    added: AtomicU64,
    read: AtomicU64,
    /// Over which connection that was seen.
    looked_over: AtomicU64,
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

/// A group that is there, and how its members read.
struct Made {
    lost: Lost,
    lease: Duration,
    no_ack: bool,
}

/// The answer when entries are taken: what is taken and how often each was delivered, when the next is
/// due, how many are gone.
type Taking = (Value, Vec<u32>, i64, u64);
/// And what else was seen: unread entries that are gone, how many are unread, consumers that were
/// forgotten, how many entries were added and read, how many the server has lost.
type Looking = (u64, u64, Vec<String>, u64, u64, u64);

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
        config: &Config,
        no_ack: bool,
    ) -> Result<Self> {
        let lease = config.lease;
        let mut this = Self {
            sink: Sink::of(&link, &config.prefix, name),
            link,
            keys,
            stream: stream.clone(),
            name: name.to_owned(),
            consumer: format!("{OURS}{:016x}", fastrand::u64(..)),
            lease,
            create: config.create_streams,
            no_ack,
            unread: AtomicU64::default(),
            added: AtomicU64::default(),
            read: AtomicU64::default(),
            looked_over: AtomicU64::default(),
        };
        let Made {
            lease: kept,
            no_ack: kept_no_ack,
            ..
        } = this.make(start, false).await?;
        if kept_no_ack != no_ack {
            return Err(Error::invalid_config(
                "the group was made with the other setting of `no_ack`, which all its members have; use \
                 that one, or delete the group with `Redis::delete_group` first",
            )
            .operation("subscribe")
            .driver(DRIVER)
            .with("stream", stream)
            .with("group", name)
            .with("no_ack", no_ack)
            .with("group's no_ack", kept_no_ack));
        }
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
        this.enter().await?;
        Ok(this)
    }

    /// Makes the group anew after it was lost, where it was before. `held` are the deliveries here
    /// that cannot be settled any more.
    pub(crate) async fn reopen(&self, held: u64) -> Result<()> {
        let Made { lost, .. } = self.make(Some(EntryId::MIN), true).await?;
        self.enter().await?;
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
                self.added.store(0, Ordering::Relaxed);
                metrics::lost(&self.stream, &self.name, "server", held + unread);
            }
        }
        Ok(())
    }

    /// Has members of pulse leave our consumers alone.
    async fn enter(&self) -> Result<()> {
        match &self.sink {
            Some(sink) => sink.enter(&[&self.consumer, PARKING]).await,
            None => Ok(()),
        }
    }

    /// Makes the group unless it is there.
    async fn make(&self, start: Option<EntryId>, known: bool) -> Result<Made> {
        const DOING: &str = "subscribe";
        let start = start.map_or_else(|| "$".to_owned(), |id| id.to_string());
        let script = &scripts::OPEN;
        let mut open = script.prepare_invoke();
        self.with_keys(&mut open)
            .arg(&self.name)
            .arg(start)
            .arg(i32::from(self.create))
            .arg(millis(self.lease))
            .arg(i32::from(known))
            .arg(i32::from(self.no_ack))
            .arg(self.added.load(Ordering::Relaxed));
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
            [
                Value::Int(1),
                Value::Int(lost),
                Value::Int(lease),
                Value::Int(no_ack),
            ] => {
                let lost = match lost {
                    0 => Lost::Nothing,
                    1 => Lost::Group,
                    _ => Lost::Stream,
                };
                Ok(Made {
                    lost,
                    lease: Duration::from_millis((*lease).try_into().unwrap_or(0)),
                    no_ack: *no_ack == 1,
                })
            }
            _ => Err(failed(
                ErrorKind::Other,
                DOING,
                "the answer to a script is not understood",
            )),
        }
    }

    /// The command that waits for new entries.
    pub(crate) fn read(&self, most: usize, block: Duration) -> Cmd {
        let mut read = Cmd::new();
        read.arg("XREADGROUP").arg("GROUP");
        read.arg(&self.name).arg(&self.consumer);
        read.arg("COUNT").arg(most);
        // 0 would be for ever.
        read.arg("BLOCK").arg(millis(block).max(1));
        if self.no_ack {
            read.arg("NOACK");
        }
        read.arg("STREAMS").arg(&self.keys.stream).arg(">");
        read
    }

    /// Takes note of new entries that this member has read since it last looked.
    pub(crate) fn has_read(&self, entries: usize) {
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        let less = |unread: u64| Some(unread.saturating_sub(entries));
        let order = Ordering::Relaxed;
        let _ = self.unread.fetch_update(order, order, less);
        self.read.fetch_add(entries, order);
    }

    /// Takes what is free or left behind. After something `failed` or the connection was opened anew, the
    /// server may have less than it had: what is gone is counted.
    pub(crate) async fn claim(&self, most: usize, failed: bool) -> RedisResult<Claimed> {
        let opened = self.link.opened();
        let broke = failed || opened != self.looked_over.load(Ordering::Relaxed);
        let was = |count: &AtomicU64| {
            if broke {
                count.load(Ordering::Relaxed)
            } else {
                0
            }
        };
        let script = &scripts::CLAIM;
        let mut claim = script.prepare_invoke();
        self.with_keys(&mut claim)
            .arg(&self.name)
            .arg(&self.consumer)
            .arg(PARKING)
            .arg(most)
            .arg(millis(self.lease))
            .arg(OURS)
            .arg(millis(FORGET.max(10 * self.lease)))
            .arg(was(&self.added))
            .arg(was(&self.read));
        let answer: (Taking, Looking) = self
            .link
            .call(async |connection| claim.invoke_async(connection).await)
            .await?;
        let ((entries, counts, wait, gone), (trimmed, unread, forgotten, added, read, lost)) =
            answer;
        self.unread.store(unread, Ordering::Relaxed);
        if opened == self.link.opened() {
            self.looked_over.store(opened, Ordering::Relaxed);
            self.added.store(added, Ordering::Relaxed);
            self.read.store(read, Ordering::Relaxed);
        }
        metrics::lost(&self.stream, &self.name, "trimmed", gone + trimmed);
        metrics::lost(&self.stream, &self.name, "server", lost);
        if let Some(sink) = &self.sink {
            sink.leave(forgotten.iter().map(String::as_str)).await;
        }
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
            Ok(_) => {}
            Err(e) if is_no_group(&e) || is_no_key(&e) => {}
            Err(e) => return Err(error(e, "close").with("stream", &self.stream)),
        }
        if let Some(sink) = &self.sink {
            sink.leave([&*self.consumer]).await;
        }
        Ok(())
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
