//! What the consumer's thread, the client's callbacks and the subscription share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use streams_core::{Assignment, Error, ErrorKind, Result, StreamName};
use tokio::sync::Notify;

use crate::callbacks::Callbacks;
use crate::commits::Commits;
use crate::config::DRIVER;
use crate::control::Command;
use crate::options::Plan;
use crate::partitions::{Facts, Partition};

/// How long a subscription may take to let go of partitions. The runner takes its `revoke_grace`.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the thread tells the subscription.
pub(crate) enum Event {
    Assigned(Vec<Partition>),
    /// The thread waits until the subscription has let go of these.
    Revoking(Vec<Assignment>),
    Lost(Vec<Assignment>),
    Failed(Error),
}

/// What the thread, the client's callbacks and the subscription share.
pub(crate) struct Shared {
    pub(crate) stream: StreamName,
    pub(crate) plan: Plan,
    pub(crate) client_id: Arc<str>,
    state: Mutex<State>,
    /// Whether there are events, so that the subscription need not take the lock to know.
    pub(crate) has_events: AtomicBool,
    /// The subscription has something to look at.
    pub(crate) wake: Notify,
    /// The thread has something to look at.
    thread: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) events: VecDeque<Event>,
    pub(crate) commits: Commits,
    pub(crate) commands: VecDeque<Command>,
    /// The epoch each partition had last.
    epochs: HashMap<u32, u32>,
    /// What is held, for metrics and for the control.
    pub(crate) held: HashMap<u32, Held>,
    /// The group has assigned partitions, or none, for the first time.
    joined: bool,
    /// The subscription is asked to let go of partitions and has not yet.
    releasing: bool,
    pub(crate) closing: bool,
}

impl State {
    /// What nobody will look at any more.
    pub(crate) fn take_left(&mut self) -> (VecDeque<Event>, VecDeque<Command>) {
        (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.commands),
        )
    }
}

/// A partition that is held, seen from outside the subscription.
pub(crate) struct Held {
    pub(crate) epoch: u32,
    pub(crate) facts: Arc<Facts>,
    pub(crate) delivered: Arc<AtomicI64>,
}

impl Shared {
    pub(crate) fn new(stream: StreamName, plan: Plan, client_id: Arc<str>) -> Self {
        Self {
            stream,
            plan,
            client_id,
            state: Mutex::default(),
            has_events: AtomicBool::new(false),
            wake: Notify::new(),
            thread: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_event(&self) -> Option<Event> {
        if !self.has_events.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let event = state.events.pop_front();
        self.has_events
            .store(!state.events.is_empty(), Ordering::Release);
        event
    }

    /// The subscription has let go of the partitions it was asked for.
    pub(crate) fn released(&self) {
        self.lock().releasing = false;
        self.thread.notify_all();
    }

    /// The group has assigned partitions.
    pub(crate) fn joined(&self) {
        self.lock().joined = true;
        self.thread.notify_all();
    }

    /// Waits until the group has assigned partitions. Blocks.
    ///
    /// # Errors
    /// What failed meanwhile; that the other members have not let this one in.
    pub(crate) fn wait_until_joined(&self, timeout: Duration) -> Result<()> {
        // Other members may take their time to let go of partitions.
        let timeout = timeout + RELEASE_TIMEOUT;
        let waited = self
            .thread
            .wait_timeout_while(self.lock(), timeout, |state| {
                !state.joined && state.events.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (mut state, waited) = waited;
        if let Some(Event::Failed(_)) = state.events.front()
            && let Some(Event::Failed(error)) = state.events.pop_front()
        {
            return Err(error);
        }
        if waited.timed_out() {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("the group has not let this member in within {timeout:?}; look for members that hang"),
            )
            .driver(DRIVER));
        }
        Ok(())
    }

    /// Has the subscription opened anew.
    pub(crate) fn fail(&self, what: &str, cause: &dyn std::fmt::Display) {
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("{what}, so the subscription must be opened anew: {cause}"),
        );
        let error = error.operation("receive").driver(DRIVER);
        self.tell(&mut self.lock(), Event::Failed(error));
    }

    /// Ends the thread, soon.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.thread.notify_all();
    }

    pub(crate) fn tell(&self, state: &mut State, event: Event) {
        state.events.push_back(event);
        self.thread.notify_all();
        self.has_events.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Has the subscription let go of these partitions, and waits until it has.
    pub(crate) fn release(&self, going: Vec<Assignment>) {
        let mut state = self.lock();
        if state.closing || going.is_empty() {
            return;
        }
        state.releasing = true;
        self.tell(&mut state, Event::Revoking(going));
        let waited = self
            .thread
            .wait_timeout_while(state, RELEASE_TIMEOUT, |state| {
                state.releasing && !state.closing
            })
            .unwrap_or_else(PoisonError::into_inner);
        let (mut state, timeout) = waited;
        state.releasing = false;
        if timeout.timed_out() {
            tracing::warn!(
                stream = %self.stream, timeout = ?RELEASE_TIMEOUT,
                "a subscription has not let go of its partitions in time; they go now, and what it \
                 settles of them later is lost"
            );
        }
    }

    /// Takes partitions in: each under an epoch of its own.
    pub(crate) fn assign(&self, consumer: &Arc<BaseConsumer<Callbacks>>, partitions: &[u32]) {
        let mut assigned = Vec::with_capacity(partitions.len());
        let mut state = self.lock();
        for number in partitions {
            let epoch = state.epochs.entry(*number).or_insert(0);
            *epoch += 1;
            let epoch = *epoch;
            match Partition::new(self, consumer, *number, epoch) {
                Some(partition) => {
                    let held = Held {
                        epoch,
                        facts: partition.facts.clone(),
                        delivered: partition.delivered.clone(),
                    };
                    state.held.insert(*number, held);
                    state.commits.assigned(*number, epoch);
                    assigned.push(partition);
                }
                None => tracing::error!(
                    stream = %self.stream, partition = number, "the client has no such partition"
                ),
            }
        }
        if !assigned.is_empty() {
            self.tell(&mut state, Event::Assigned(assigned));
        }
    }

    /// Forgets partitions; returns them with the epochs they had.
    pub(crate) fn forget(&self, partitions: &[u32]) -> Vec<Assignment> {
        let mut state = self.lock();
        let mut gone = Vec::with_capacity(partitions.len());
        for number in partitions {
            state.commits.forget(*number);
            if let Some(held) = state.held.remove(number) {
                gone.push(Assignment {
                    partition: *number,
                    epoch: held.epoch,
                });
            }
        }
        gone
    }

    pub(crate) fn held(&self, partitions: &[u32]) -> Vec<Assignment> {
        let state = self.lock();
        let held = partitions.iter().filter_map(|number| {
            state.held.get(number).map(|held| Assignment {
                partition: *number,
                epoch: held.epoch,
            })
        });
        held.collect()
    }
}
