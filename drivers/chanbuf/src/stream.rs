//! A stream: its log, its groups, and what is scheduled for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use streams_core::{
    Delivery, Error, ErrorKind, Message, MessageId, Result, SettleReport, Settlement, StartFrom,
    StreamName, TokenId,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Backlog;
use crate::config::{Config, DRIVER, Unheld};
use crate::delayed::Delayed;
use crate::group::{Group, MemberId, Settled};

pub(crate) type GroupId = u64;

pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) config: Arc<Config>,
    state: Mutex<State>,
    /// Tells a waiting writer that there may be room.
    room: Notify,
    /// Writers that wait, or are about to: they look for room once more after counting themselves.
    waiting_writers: AtomicUsize,
}

pub(crate) struct State {
    pub(crate) log: Log,
    groups: Vec<(GroupId, Group)>,
    next_group: GroupId,
    next_member: MemberId,
    delayed: Delayed,
    recorded: VecDeque<Message>,
    dead_letters: bool,
}

/// The messages that some group has not read yet, and those kept for replay.
#[derive(Default)]
pub(crate) struct Log {
    messages: VecDeque<Message>,
    /// The offset of the first.
    base: u64,
}

impl Log {
    /// The offset the next message gets.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.messages.len() as u64
    }

    /// The message at an offset; taken out where `only_reader` says that nobody else wants it.
    pub(crate) fn read(&mut self, offset: u64, only_reader: bool) -> Option<Message> {
        if only_reader && offset == self.base {
            let message = self.messages.pop_front()?;
            self.base += 1;
            return Some(message);
        }
        let at = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.messages.get(at).cloned()
    }

    fn trim(&mut self, before: u64) {
        while self.base < before && self.messages.pop_front().is_some() {
            self.base += 1;
        }
    }
}

impl Stream {
    pub(crate) fn new(name: StreamName, config: Arc<Config>) -> Self {
        let dead_letters = name.is_dead_letters();
        Self {
            name,
            config,
            state: Mutex::new(State {
                log: Log::default(),
                groups: Vec::new(),
                next_group: 0,
                next_member: 0,
                delayed: Delayed::default(),
                recorded: VecDeque::new(),
                dead_letters,
            }),
            room: Notify::new(),
            waiting_writers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes as many of `batch` as there is room for; says how many.
    pub(crate) fn write(&self, batch: &[Message]) -> Result<usize> {
        let mut state = self.lock();
        state.pump(&self.config);
        state
            .append(batch, &self.config)
            .map_err(|error| error.with("stream", &self.name))
    }

    /// Writes all of `batch` if there is room for it and no other writer waits for room.
    pub(crate) fn try_write(&self, batch: &[Message]) -> Result<bool> {
        if self.waiting_writers.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        let mut state = self.lock();
        state.pump(&self.config);
        if state.room(&self.config) < batch.len() {
            return Ok(false);
        }
        let written = state
            .append(batch, &self.config)
            .map_err(|error| error.with("stream", &self.name));
        written.map(|written| written == batch.len())
    }

    /// Waits for room and writes, portion by portion. Writers that wait are served in turn.
    pub(crate) async fn write_waiting(&self, batch: &[Message]) -> Result<(), (usize, Error)> {
        struct Waiting<'a>(&'a Stream);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.waiting_writers.fetch_sub(1, Ordering::SeqCst);
                // Whoever is next looks for itself: there may be room that was meant for this one.
                self.0.room.notify_one();
            }
        }
        self.waiting_writers.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(self);
        let mut written = 0;
        loop {
            // Registered before looking, so that room made in between wakes this writer.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            written += self
                .write(&batch[written..])
                .map_err(|error| (written, error))?;
            if written == batch.len() {
                return Ok(());
            }
            room.await;
        }
    }

    /// Something was taken from the stream's bounds.
    fn made_room(&self) {
        if self.waiting_writers.load(Ordering::SeqCst) > 0 {
            self.room.notify_one();
        }
    }

    pub(crate) fn schedule(&self, message: Message, due: SystemTime) -> Result<()> {
        let mut state = self.lock();
        let limit = self.config.delayed_capacity;
        if state.delayed.len() >= limit {
            return Err(Error::new(
                ErrorKind::Full,
                "the stream holds as many scheduled messages as it may; try again later, or raise \
                 `delayed_capacity`",
            )
            .driver(DRIVER)
            .with("stream", &self.name)
            .with("limit", limit));
        }
        let earliest = state.delayed.first().is_none_or(|first| due < first);
        state.delayed.insert(message, due);
        if earliest {
            // Those who sleep until the one that was first so far must look again.
            for (_, group) in &mut state.groups {
                group.wake(1);
            }
        }
        Ok(())
    }

    pub(crate) fn cancel(&self, id: &MessageId) -> bool {
        self.lock().delayed.cancel(id)
    }

    pub(crate) fn settle(
        &self,
        group: GroupId,
        member: MemberId,
        settlements: &mut Vec<Settlement>,
    ) -> SettleReport {
        let mut report = SettleReport::default();
        let mut state = self.lock();
        match state.group(group) {
            Some(group) => {
                group.expire();
                for Settlement { token, action, .. } in settlements.drain(..) {
                    if let Settled::Lost = group.settle(member, token.id(), action) {
                        report.lost.push(token.id());
                    }
                }
            }
            None => report
                .lost
                .extend(settlements.drain(..).map(|s| s.token.id())),
        }
        drop(state);
        self.made_room();
        report
    }

    pub(crate) fn extend(
        &self,
        group: GroupId,
        member: MemberId,
        deliveries: &[TokenId],
        by: Duration,
    ) -> Vec<TokenId> {
        let mut state = self.lock();
        let Some(group) = state.group(group) else {
            return deliveries.to_vec();
        };
        group.expire();
        let until = Instant::now() + by;
        deliveries
            .iter()
            .copied()
            .filter(|id| !group.extend(member, *id, until))
            .collect()
    }

    /// A member goes; a reader without a group takes its place in the stream with it.
    pub(crate) fn leave(&self, id: GroupId, member: MemberId) {
        let mut state = self.lock();
        if let Some(group) = state.group(id) {
            group.leave(member);
            if group.name.is_none() {
                state.groups.retain(|(known, _)| *known != id);
                state.trim(&self.config);
            }
        }
        drop(state);
        self.made_room();
    }

    pub(crate) fn delete_group(&self, name: &str) -> bool {
        let mut state = self.lock();
        let at = state
            .groups
            .iter()
            .position(|(_, group)| group.name.as_deref() == Some(name));
        let Some(at) = at else {
            return false;
        };
        let (_, mut group) = state.groups.remove(at);
        group.wake(usize::MAX);
        state.trim(&self.config);
        drop(state);
        self.made_room();
        true
    }
}

impl State {
    pub(crate) fn group(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups
            .iter_mut()
            .find(|(known, _)| *known == id)
            .map(|(_, group)| group)
    }

    /// Messages that can be added now.
    fn room(&self, config: &Config) -> usize {
        let end = self.log.end();
        let used = |group: &Group| (end - group.cursor) as usize + group.held();
        match self.groups.iter().map(|(_, group)| used(group)).max() {
            Some(used) => config.capacity.saturating_sub(used),
            None if self.dead_letters => config
                .dead_letter_capacity
                .saturating_sub(self.log.messages.len()),
            None => usize::MAX,
        }
    }

    fn append(&mut self, batch: &[Message], config: &Config) -> Result<usize> {
        if self.groups.is_empty() && config.retain == 0 && !self.dead_letters {
            return match config.unheld {
                Unheld::Discard => {
                    self.record(batch, config.record);
                    Ok(batch.len())
                }
                Unheld::Refuse => Err(Error::new(
                    ErrorKind::NoSubscriberRegistered,
                    "nobody holds this stream, so the message would be lost; subscribe or make the \
                     group before publishing, or set `retain` or `unheld` when building the broker",
                )
                .driver(DRIVER)),
            };
        }
        let count = batch.len().min(self.room(config));
        if count == 0 {
            return Ok(0);
        }
        self.log.messages.extend(batch[..count].iter().cloned());
        self.record(&batch[..count], config.record);
        for (_, group) in &mut self.groups {
            group.wake(count);
        }
        if self.groups.is_empty() {
            self.trim(config);
        }
        Ok(count)
    }

    fn record(&mut self, messages: &[Message], limit: usize) {
        if limit == 0 {
            return;
        }
        self.recorded.extend(messages.iter().cloned());
        let over = self.recorded.len().saturating_sub(limit);
        self.recorded.drain(..over);
    }

    pub(crate) fn recorded(&self) -> Vec<Message> {
        self.recorded.iter().cloned().collect()
    }

    /// Drops what every group has read, but for what is retained.
    fn trim(&mut self, config: &Config) {
        let end = self.log.end();
        let read = match self.groups.iter().map(|(_, group)| group.cursor).min() {
            Some(cursor) => cursor,
            None if self.dead_letters => return,
            None => end,
        };
        self.log
            .trim(read.min(end.saturating_sub(config.retain as u64)));
    }

    /// Moves what is due from the schedule to the log, as long as somebody holds the stream.
    fn pump(&mut self, config: &Config) {
        if self.delayed.len() == 0 {
            return;
        }
        let held = !self.groups.is_empty() || config.retain > 0 || self.dead_letters;
        if !held {
            return;
        }
        let now = config.clock.now();
        let mut count = 0;
        while let Some(message) = self.delayed.pop(now) {
            self.record(std::slice::from_ref(&message), config.record);
            self.log.messages.push_back(message);
            count += 1;
        }
        if count > 0 {
            for (_, group) in &mut self.groups {
                group.wake(count);
            }
            if self.groups.is_empty() {
                self.trim(config);
            }
        }
    }

    /// Finds a group, or makes it; without a name, always makes one.
    pub(crate) fn open_group(
        &mut self,
        name: Option<&str>,
        start: &StartFrom,
        config: &Config,
    ) -> Result<GroupId> {
        if let Some(name) = name {
            let known = self
                .groups
                .iter()
                .find(|(_, group)| group.name.as_deref() == Some(name));
            if let Some((id, _)) = known {
                return Ok(*id);
            }
        }
        self.pump(config);
        let cursor = self.position(start)?;
        let id = self.next_group;
        self.next_group += 1;
        self.groups.push((id, Group::new(name, cursor)));
        self.trim(config);
        Ok(id)
    }

    fn position(&self, start: &StartFrom) -> Result<u64> {
        let (base, end) = (self.log.base, self.log.end());
        Ok(match start {
            // What was kept for want of a reader is what the first reader wants.
            StartFrom::Default if self.dead_letters => base,
            StartFrom::Earliest => base,
            StartFrom::Default | StartFrom::Latest => end,
            StartFrom::Time(time) => {
                let at = self
                    .log
                    .messages
                    .iter()
                    .position(|message| message.time() >= *time);
                at.map_or(end, |at| base + at as u64)
            }
            StartFrom::Position(text) => {
                let offset: u64 = text.parse().map_err(|_| {
                    Error::invalid_config("the start position is not an offset; use a whole number")
                        .driver(DRIVER)
                        .with("position", text)
                })?;
                if offset < base || offset > end {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the offset is not kept; this stream has {base} to {end}"),
                    )
                    .driver(DRIVER)
                    .with("position", offset));
                }
                offset
            }
            other => {
                return Err(Error::unsupported(
                    DRIVER,
                    format!("cannot start from {other:?}"),
                ));
            }
        })
    }

    pub(crate) fn join(&mut self, id: GroupId) -> Option<(MemberId, Arc<Notify>)> {
        let member = self.next_member;
        let wake = Arc::new(Notify::new());
        self.group(id)?.join(member, wake.clone());
        self.next_member += 1;
        Some((member, wake))
    }

    /// Gives out what a member may have now; `false` says that the group is gone.
    pub(crate) fn take(
        &mut self,
        id: GroupId,
        member: MemberId,
        max: usize,
        lease: Option<Duration>,
        config: &Config,
        out: &mut Vec<Delivery>,
    ) -> bool {
        self.pump(config);
        let only_reader = self.groups.len() == 1 && config.retain == 0;
        let log = &mut self.log;
        let Some((_, group)) = self.groups.iter_mut().find(|(known, _)| *known == id) else {
            return false;
        };
        group.expire();
        group.take(log, only_reader, member, max, lease, out);
        if !only_reader && !out.is_empty() {
            self.trim(config);
        }
        true
    }

    /// When a member that found nothing should look again without being woken.
    pub(crate) fn next_time(&mut self, id: GroupId, config: &Config) -> Option<Instant> {
        let now = Instant::now();
        let due = self
            .delayed
            .first()
            .map(|due| now + config.clock.until(due).min(LONGEST_SLEEP));
        let group = self.group(id).and_then(|group| group.next_time(now));
        [due, group]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.min(now + LONGEST_SLEEP))
    }

    pub(crate) fn add_backlog(&mut self, config: &Config, backlog: &mut Backlog) {
        self.pump(config);
        let now = Instant::now();
        let end = self.log.end();
        let members = self
            .groups
            .iter()
            .filter(|(_, group)| !group.members.is_empty());
        for (_, group) in members {
            let (ready, waiting) = group.pending_counts(now);
            backlog.ready += (end - group.cursor) as usize + ready;
            backlog.waiting += waiting;
            backlog.unsettled += group.unsettled();
        }
        // Without a group nobody waits for them.
        if !self.groups.is_empty() {
            backlog.delayed += self.delayed.len();
        }
    }
}

/// Longer waits are taken in steps: tokio's timer does not reach further than about two years.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);
