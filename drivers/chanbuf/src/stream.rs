//! A stream: its log, its groups, and what is scheduled for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use streams_core::{
    Delivery, Message, MessageId, Result, Scheduled, SettleReport, Settlement, StartFrom,
    StreamName, TokenId, TransactionPart,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Backlog;
use crate::config::{Config, Full, Unheld};
use crate::delayed::Delayed;
use crate::group::{Ask, Group, Settled, Taken};
use crate::log::Log;
use crate::members::{MemberId, MemberState};
use crate::refused::Refused;

pub(crate) type GroupId = u64;

/// Longer waits are taken in steps: tokio's timer does not reach further than about two years.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) config: Arc<Config>,
    state: Mutex<State>,
    /// Held by the writer that waits for room; the others queue for it, so that they are served in
    /// turn. One that is dropped passes its turn on with it.
    turn: tokio::sync::Mutex<()>,
    /// Tells that writer that there may be room.
    room: Notify,
    /// Writers that wait, or are about to: they look for room once more after counting themselves.
    waiting_writers: AtomicUsize,
}

pub(crate) struct State {
    log: Log,
    /// By id.
    groups: Vec<(GroupId, Group)>,
    next_group: GroupId,
    next_member: MemberId,
    delayed: Delayed,
    recorded: VecDeque<Message>,
    dead_letters: bool,
}

impl Stream {
    pub(crate) fn new(name: StreamName, config: Arc<Config>, first_offset: u64) -> Self {
        let dead_letters = name.is_dead_letters();
        Self {
            name,
            config,
            state: Mutex::new(State {
                log: Log {
                    messages: VecDeque::new(),
                    base: first_offset,
                },
                groups: Vec::new(),
                next_group: 0,
                next_member: 0,
                delayed: Delayed::default(),
                recorded: VecDeque::new(),
                dead_letters,
            }),
            turn: tokio::sync::Mutex::default(),
            room: Notify::new(),
            waiting_writers: AtomicUsize::new(0),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether writers wait for room. Dead letters never do: nobody may be reading them, and a
    /// handler that waited would hold up its own stream.
    pub(crate) fn waits(&self) -> bool {
        self.config.full == Full::Wait && !self.name.is_dead_letters()
    }

    /// Whether there can be room for all of a batch's messages to this stream at once.
    pub(crate) fn can_ever_hold(&self, batch: &[Message]) -> bool {
        let its = batch.iter().filter(|m| *m.stream() == self.name);
        its.count() <= self.config.capacity || self.name.is_dead_letters()
    }

    /// Writes as many of `batch` as there is room for; says how many.
    pub(crate) fn write(&self, batch: &[Message]) -> Result<usize, Refused> {
        self.lock().append(batch, false, &self.config)
    }

    /// Writes all of `batch` if there is room for it and no other writer waits for room.
    pub(crate) fn try_write(&self, batch: &[Message]) -> Result<bool, Refused> {
        if self.waiting_writers.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        let written = self.lock().append(batch, true, &self.config)?;
        Ok(written == batch.len())
    }

    /// Waits for room and writes, portion by portion, counting in `written`.
    ///
    /// No room is missed: this writer counts itself before it looks under the lock, so whoever makes
    /// room under that lock afterwards sees it and notifies; and it is registered with `room` before
    /// it looks, so that the notification is not lost before it waits.
    pub(crate) async fn write_waiting(
        &self,
        batch: &[Message],
        written: &mut usize,
    ) -> Result<(), Refused> {
        self.wait_for_room(|| match self.write(&batch[*written..]) {
            Ok(more) => {
                *written += more;
                (*written == batch.len()).then_some(Ok(()))
            }
            Err(refused) => Some(Err(refused)),
        })
        .await
    }

    /// Tries until there is a result: at once when it is this writer's turn, and whenever there may
    /// be more room.
    pub(crate) async fn wait_for_room<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.waiting_writers.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting_writers);
        let _turn = self.turn.lock().await;
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if let Some(result) = attempt() {
                return result;
            }
            room.await;
        }
    }

    /// Something was taken from the stream's bounds.
    pub(crate) fn made_room(&self) {
        if self.waiting_writers.load(Ordering::SeqCst) > 0 {
            self.room.notify_one();
        }
    }

    pub(crate) fn schedule(&self, message: Message, due: SystemTime) -> Result<(), Refused> {
        let config = &*self.config;
        let mut state = self.lock();
        if config.unheld == Unheld::Refuse && !state.is_held(config) {
            return Err(Refused::Unheld);
        }
        if state.delayed.len() >= config.max_scheduled {
            return Err(Refused::ScheduleFull);
        }
        state.delayed.insert(message, due);
        if state.delayed.first() == Some(due) {
            // It may be due already; and those who sleep until the one that was first so far must
            // look again.
            state.pump(config);
            state.keep_watch_everywhere(config);
        }
        Ok(())
    }

    pub(crate) fn cancel(&self, id: &MessageId) -> bool {
        let mut state = self.lock();
        // What is due is as good as delivered, whether or not anybody has looked.
        state.pump(&self.config);
        let cancelled = state.delayed.cancel(id);
        // The one that is first now may have been hidden by one that waited for room.
        state.keep_watch_everywhere(&self.config);
        cancelled
    }

    pub(crate) fn scheduled(&self, limit: usize) -> Vec<Scheduled> {
        let mut state = self.lock();
        // What is due is as good as delivered, whether or not anybody has looked.
        state.pump(&self.config);
        state.delayed.list(limit)
    }

    pub(crate) fn settle(
        &self,
        id: GroupId,
        member: MemberId,
        settlements: &mut Vec<Settlement>,
    ) -> SettleReport {
        let report = self
            .lock()
            .settle(id, member, settlements.drain(..), &self.config);
        self.made_room();
        report
    }

    pub(crate) fn extend(
        &self,
        id: GroupId,
        member: MemberId,
        deliveries: &[TokenId],
        by: Duration,
    ) -> Vec<TokenId> {
        let mut state = self.lock();
        let Some(index) = state.index(id) else {
            return deliveries.to_vec();
        };
        let group = &mut state.groups[index].1;
        group.expire();
        let lost = deliveries
            .iter()
            .copied()
            .filter(|id| !group.extend(member, *id, by))
            .collect();
        // A lease may now end earlier than before.
        state.keep_watch(index, &self.config);
        lost
    }

    /// A member goes; a reader without a group takes its place in the stream with it.
    pub(crate) fn leave(&self, id: GroupId, member: MemberId) {
        let mut state = self.lock();
        // What is due is the group's, whether or not anybody has looked.
        state.pump(&self.config);
        if let Some(index) = state.index(id) {
            let group = &mut state.groups[index].1;
            group.leave(member);
            if group.name.is_none() {
                state.groups.remove(index);
                state.trim(&self.config);
                state.pump(&self.config);
            }
        }
        drop(state);
        self.made_room();
    }

    pub(crate) fn delete_group(&self, name: &str) -> bool {
        let mut state = self.lock();
        let Some(index) = state.named(name) else {
            return false;
        };
        state.pump(&self.config);
        let (_, mut group) = state.groups.remove(index);
        group.members.wake(usize::MAX);
        state.trim(&self.config);
        state.pump(&self.config);
        drop(state);
        self.made_room();
        true
    }

    /// Whether forgetting the stream would forget nothing.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.lock();
        state.groups.is_empty()
            && state.log.messages.is_empty()
            && state.delayed.is_empty()
            && state.recorded.is_empty()
    }
}

impl State {
    fn index(&self, id: GroupId) -> Option<usize> {
        self.groups.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    fn named(&self, name: &str) -> Option<usize> {
        let is = |group: &Group| group.name.as_deref() == Some(name);
        self.groups.iter().position(|(_, group)| is(group))
    }

    /// Which of these deliveries are unsettled and the member's.
    pub(crate) fn its<'a>(
        &mut self,
        id: GroupId,
        member: MemberId,
        parts: &'a [TransactionPart],
    ) -> Vec<&'a TransactionPart> {
        let Some(group) = self.group(id) else {
            return Vec::new();
        };
        group.expire();
        let its = |part: &&TransactionPart| group.holds(member, part.settlement.token.id());
        parts.iter().filter(its).collect()
    }

    pub(crate) fn group(&mut self, id: GroupId) -> Option<&mut Group> {
        self.index(id).map(|index| &mut self.groups[index].1)
    }

    pub(crate) fn end(&self) -> u64 {
        self.log.end()
    }

    /// Whether what is written now stays for somebody.
    fn is_held(&self, config: &Config) -> bool {
        !self.groups.is_empty() || config.retain > 0 || self.dead_letters
    }

    /// Whether what has been read by all stays all the same: dead letters are there until a group
    /// has read them. Readers without one only look.
    fn keeps_read(&self) -> bool {
        self.dead_letters && self.groups.iter().all(|(_, group)| group.name.is_none())
    }

    /// Messages that can be added now.
    fn room(&self, config: &Config) -> usize {
        let end = self.log.end();
        let used = |group: &Group| (end - group.cursor) as usize + group.held();
        let used = self.groups.iter().map(|(_, group)| used(group)).max();
        if self.dead_letters {
            let kept = if self.keeps_read() {
                self.log.messages.len()
            } else {
                0
            };
            let used = kept.max(used.unwrap_or(0));
            return config.dead_letter_capacity.saturating_sub(used);
        }
        used.map_or(usize::MAX, |used| config.capacity.saturating_sub(used))
    }

    /// Settles what is still the member's; the rest is lost.
    pub(crate) fn settle(
        &mut self,
        id: GroupId,
        member: MemberId,
        settlements: impl Iterator<Item = Settlement>,
        config: &Config,
    ) -> SettleReport {
        let mut report = SettleReport::default();
        let Some(index) = self.index(id) else {
            report.lost.extend(settlements.map(|s| s.token.id()));
            return report;
        };
        let group = &mut self.groups[index].1;
        group.expire();
        let was_full = group.is_full();
        for Settlement { token, action } in settlements {
            if let Settled::Lost = group.settle(member, token.id(), action) {
                report.lost.push(token.id());
            }
        }
        if was_full {
            group.members.wake(1);
        }
        self.pump(config);
        // A retry may have to be waited for.
        self.keep_watch(index, config);
        report
    }

    /// Adds as many as there is room for; or `all` or none.
    fn append(&mut self, batch: &[Message], all: bool, config: &Config) -> Result<usize, Refused> {
        let count = batch.len().min(self.accepts(config)?);
        if count == 0 || (all && count < batch.len()) {
            return Ok(0);
        }
        self.add(&batch[..count], config);
        Ok(count)
    }

    /// How many messages would be taken now.
    pub(crate) fn accepts(&mut self, config: &Config) -> Result<usize, Refused> {
        self.pump(config);
        match config.unheld {
            _ if self.is_held(config) => Ok(self.room(config)),
            Unheld::Discard => Ok(usize::MAX),
            Unheld::Refuse => Err(Refused::Unheld),
        }
    }

    /// Adds messages that would be taken.
    pub(crate) fn add(&mut self, messages: &[Message], config: &Config) {
        self.record(messages, config.record);
        if self.is_held(config) {
            self.log.messages.extend(messages.iter().cloned());
            self.added(messages.len(), config);
        }
    }

    fn added(&mut self, count: usize, config: &Config) {
        for (_, group) in &mut self.groups {
            group.members.wake(count);
        }
        if self.groups.is_empty() {
            self.trim(config);
        }
    }

    fn record(&mut self, messages: &[Message], limit: usize) {
        if limit == 0 {
            return;
        }
        self.recorded.extend(messages.iter().cloned());
        let over = self.recorded.len().saturating_sub(limit);
        self.recorded.drain(..over);
    }

    pub(crate) fn recorded(&mut self, config: &Config) -> Vec<Message> {
        self.pump(config);
        self.recorded.iter().cloned().collect()
    }

    /// Drops what every group has read, but for what is retained.
    fn trim(&mut self, config: &Config) {
        if self.keeps_read() {
            return;
        }
        let end = self.log.end();
        let cursors = self.groups.iter().map(|(_, group)| group.cursor);
        let read = cursors.min().unwrap_or(end);
        self.log
            .trim(read.min(end.saturating_sub(config.retain as u64)));
    }

    /// Moves what is due from the schedule to the log, as far as there is room. What is due when
    /// nobody holds the stream waits for somebody, or is dropped where that was asked for.
    fn pump(&mut self, config: &Config) {
        if self.delayed.is_empty() {
            return;
        }
        let held = self.is_held(config);
        if !held && config.unheld == Unheld::Refuse {
            return;
        }
        let now = config.clock.now();
        let room = self.room(config);
        let mut count = 0;
        while count < room
            && let Some(message) = self.delayed.pop(now)
        {
            self.record(std::slice::from_ref(&message), config.record);
            if held {
                self.log.messages.push_back(message);
                count += 1;
            }
        }
        if count > 0 {
            self.added(count, config);
        }
    }

    /// Finds a group, or makes it; without a name, always makes one.
    pub(crate) fn open_group(
        &mut self,
        name: Option<&str>,
        start: &StartFrom,
        config: &Config,
    ) -> Result<GroupId> {
        if let Some(index) = name.and_then(|name| self.named(name)) {
            return Ok(self.groups[index].0);
        }
        self.pump(config);
        let cursor = self.log.position(start, self.dead_letters)?;
        let id = self.next_group;
        self.next_group += 1;
        self.groups.push((id, Group::new(name, cursor)));
        self.trim(config);
        Ok(id)
    }

    pub(crate) fn join(&mut self, id: GroupId) -> Option<(MemberId, Arc<Notify>)> {
        let member = self.next_member;
        let wake = Arc::new(Notify::new());
        self.group(id)?.join(member, wake.clone());
        self.next_member += 1;
        Some((member, wake))
    }

    /// Gives out what a member may have now; `None` says that the group is gone.
    pub(crate) fn take(
        &mut self,
        id: GroupId,
        ask: &Ask,
        config: &Config,
        out: &mut Vec<Delivery>,
    ) -> Option<Taken> {
        self.pump(config);
        let index = self.index(id)?;
        let only_reader = self.groups.len() == 1 && config.retain == 0 && !self.keeps_read();
        let group = &mut self.groups[index].1;
        group.expire();
        let cursor = group.cursor;
        let taken = group.take(&mut self.log, only_reader, ask, out);
        let (moved, others) = (group.cursor > cursor, group.members.has_idle());
        if moved && !only_reader {
            self.trim(config);
        }
        // This member may have been the one that was to look at the next time.
        if others && taken != Taken::None {
            self.keep_watch(index, config);
        }
        Some(taken)
    }

    /// A member that found nothing waits; until when, it is told.
    pub(crate) fn wait(
        &mut self,
        id: GroupId,
        member: MemberId,
        config: &Config,
    ) -> Option<Instant> {
        let index = self.index(id)?;
        let until = self.next_time(index, config);
        self.groups[index].1.members.wait(member, until);
        until
    }

    /// Sees to it that, if anybody of the group waits, somebody looks when the clock says so.
    fn keep_watch(&mut self, index: usize, config: &Config) {
        if self.groups[index].1.members.has_idle() {
            let time = self.next_time(index, config);
            self.groups[index].1.members.watch(time);
        }
    }

    fn keep_watch_everywhere(&mut self, config: &Config) {
        for index in 0..self.groups.len() {
            self.keep_watch(index, config);
        }
    }

    /// A member stops waiting without looking: what it was woken for, or was to look for, is left to
    /// another.
    pub(crate) fn give_up_waiting(&mut self, id: GroupId, member: MemberId, config: &Config) {
        let Some(index) = self.index(id) else {
            return;
        };
        let group = &mut self.groups[index].1;
        if group.members.stop_waiting(member, false) == Some(MemberState::Woken) {
            group.members.wake(1);
        }
        self.keep_watch(index, config);
    }

    /// When a member that found nothing should look again without being woken.
    fn next_time(&self, index: usize, config: &Config) -> Option<Instant> {
        let now = Instant::now();
        let scheduled = self.delayed.first().and_then(|due| {
            let left = config.clock.until(due);
            // One that is due and still there waits for room, which wakes by itself.
            let blocked = left.is_zero() && self.room(config) == 0;
            (!blocked).then(|| now + left.min(LONGEST_SLEEP))
        });
        [scheduled, self.groups[index].1.next_time()]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.min(now + LONGEST_SLEEP))
    }

    pub(crate) fn add_backlog(&mut self, config: &Config, backlog: &mut Backlog) {
        self.pump(config);
        let end = self.log.end();
        for (_, group) in &mut self.groups {
            if !group.members.is_empty() {
                let (ready, waiting) = group.pending_counts();
                backlog.ready += (end - group.cursor) as usize + ready;
                backlog.waiting += waiting;
                backlog.unsettled += group.unsettled();
            }
        }
        // Without a group nobody waits for them.
        if !self.groups.is_empty() {
            backlog.delayed += self.delayed.len();
        }
    }

    /// When the next scheduled message is due, of those that are not.
    #[cfg(feature = "testing")]
    pub(crate) fn next_due(&mut self, config: &Config) -> Option<SystemTime> {
        self.pump(config);
        self.delayed.first_after(config.clock.now())
    }
}
