//! The members of a group: who waits, who is woken, and who lets others go first.
//!
//! Everything here changes under the stream's lock, and two rules keep any member from waiting for
//! what it could have:
//! - A member is counted as waiting under the lock under which it found nothing. Whoever adds
//!   something takes that lock and wakes it, through a permit that stays until it is used. If it
//!   stops waiting without looking, another is woken in its place.
//! - While anybody waits, somebody who waits looks when the next retry, lease or schedule is due:
//!   [`Members::watch`] sees to it whenever that time moves closer, or the one who was to look stops
//!   waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Timers are no more exact than this.
const TICK: Duration = Duration::from_millis(1);

/// Members are numbered in the order they join.
pub(crate) type MemberId = u64;

#[derive(Default)]
pub(crate) struct Members {
    /// By id.
    all: Vec<Member>,
    /// Those that wait and are not woken yet, the one that has waited longest first.
    idle: VecDeque<MemberId>,
}

struct Member {
    id: MemberId,
    wake: Arc<Notify>,
    state: MemberState,
    /// Has taken something since it last let others go first.
    served: bool,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// Has joined and not asked yet.
    Joined,
    /// Handles what it has, or whatever it does.
    Busy,
    /// Waits to be woken, and looks by itself at this time.
    Waits { until: Option<Instant> },
    /// Is about to look.
    Woken,
}

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn join(&mut self, id: MemberId, wake: Arc<Notify>) {
        self.all.push(Member {
            id,
            wake,
            state: MemberState::Joined,
            served: false,
        });
    }

    pub(crate) fn leave(&mut self, id: MemberId) {
        self.all.retain(|member| member.id != id);
        self.idle.retain(|other| *other != id);
    }

    /// How many others want something, and whether the member gives way to them: some are about to
    /// ask and have nothing yet, while it has been served since it last did.
    pub(crate) fn others(&self, id: MemberId) -> (usize, bool) {
        let (mut about_to_ask, mut served) = (0, false);
        for member in &self.all {
            if member.id == id {
                served = member.served;
            } else if matches!(member.state, MemberState::Joined | MemberState::Woken) {
                about_to_ask += usize::from(!member.served);
            }
        }
        (about_to_ask + self.idle.len(), about_to_ask > 0 && served)
    }

    /// A member has asked.
    pub(crate) fn asked(&mut self, id: MemberId, served: bool) {
        if let Some(member) = self.member(id) {
            member.state = MemberState::Busy;
            member.served = served;
        }
    }

    /// A member that found nothing waits.
    pub(crate) fn wait(&mut self, id: MemberId, until: Option<Instant>) {
        if let Some(member) = self.member(id) {
            member.state = MemberState::Waits { until };
            self.idle.push_back(id);
        }
    }

    /// It waits no more, to look for itself or not. Says what it did: it may have been woken
    /// already.
    pub(crate) fn stop_waiting(&mut self, id: MemberId, looks: bool) -> Option<MemberState> {
        let next = if looks {
            MemberState::Woken
        } else {
            MemberState::Busy
        };
        let member = self.member(id)?;
        let state = std::mem::replace(&mut member.state, next);
        if matches!(state, MemberState::Waits { .. }) {
            self.idle.retain(|other| *other != id);
        }
        Some(state)
    }

    /// Whether somebody waits whom nobody has woken.
    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Wakes up to `count` that wait, in turn.
    pub(crate) fn wake(&mut self, count: usize) {
        for _ in 0..count {
            let Some(id) = self.idle.pop_front() else {
                return;
            };
            if let Some(member) = self.member(id) {
                member.state = MemberState::Woken;
                member.wake.notify_one();
            }
        }
    }

    /// Wakes this one, if it waits: what is there is for nobody else.
    pub(crate) fn wake_only(&mut self, id: MemberId) {
        if let Some(at) = self.idle.iter().position(|other| *other == id) {
            self.idle.remove(at);
            self.idle.push_front(id);
            self.wake(1);
        }
    }

    /// Sees to it that, if anybody waits, somebody looks at `time`.
    pub(crate) fn watch(&mut self, time: Option<Instant>) {
        let Some(time) = time else {
            return;
        };
        let looks = |member: &Member| match member.state {
            MemberState::Woken => true,
            MemberState::Waits { until } => until.is_some_and(|until| until <= time + TICK),
            MemberState::Joined | MemberState::Busy => false,
        };
        if !self.all.iter().any(looks) {
            self.wake(1);
        }
    }

    fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        let at = self.all.binary_search_by_key(&id, |member| member.id);
        at.ok().map(|at| &mut self.all[at])
    }
}
