//! What the fetcher and the workers of one subscription share, and how they wake each other.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Done, Work};
use super::settings::RunSettings;
use super::sync::{Mutex, MutexGuard, Tasks};
use super::worker::Workers;
use crate::handler::{CancelCell, SubscriptionInfo};
use crate::{Capabilities, Delivery};

/// Most messages a worker takes at once.
pub(crate) const MAX_CHUNK: usize = 64;
/// How often a busy worker has the fetcher look after it.
const FETCHER_EVERY: Duration = Duration::from_micros(500);
/// A chunk that takes less is followed by a larger one, one that takes more than four times as much
/// by a smaller: cheap handlers pay for the lock once in many messages, and what a slow handler
/// holds up stays short.
const SHORT: Duration = Duration::from_micros(50);

pub(crate) struct Shared {
    state: Mutex<Pool>,
    locals: Box<[Local]>,
    /// A permit for each idle worker that was chosen to go on. Permits add up, so that none is
    /// lost when two are given before either worker waits.
    work: Semaphore,
    /// Wakes the fetcher.
    pub(crate) fetcher: Notify,
    /// See [`Shared::let_go`].
    ballast: Notify,
    tasks: Tasks,
    workers: Arc<dyn Workers>,
    pub(crate) info: Arc<SubscriptionInfo>,
    pub(crate) settings: RunSettings,
}

/// The dispatcher and the workers' whereabouts, under one lock. Locks are taken in this order: the
/// pool, then a worker's own.
pub(crate) struct Pool {
    pub(crate) dispatcher: Dispatcher,
    /// Started workers.
    spawned: usize,
    /// Workers waiting for `Shared::work`, less those already woken.
    idle: usize,
    /// Workers looking for work or handling it without having had to wait.
    awake: usize,
    /// What the fetcher waits for, beside its subscription.
    pub(crate) fetcher_waits: FetcherWaits,
    /// When a worker that went on by itself last woke the fetcher.
    fetcher_woken: Instant,
    /// Rises with each chunk taken: how the fetcher sees that the pool moves.
    pub(crate) taken: u64,
    stopping: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FetcherWaits {
    /// It is asleep.
    pub(crate) asleep: bool,
    /// It has nothing to settle yet: the first settlement wakes it.
    pub(crate) settlements: bool,
    /// It fetches nothing until this many messages have room.
    pub(crate) room: Option<usize>,
    /// It wakes for a timer at this time at the latest.
    pub(crate) until: Option<Instant>,
    /// It waits for running handlers to end.
    pub(crate) drain: bool,
}

/// A worker's own part, so that it does not lock the pool for each message.
struct Local {
    state: Mutex<LocalState>,
    cancel: Arc<CancelCell>,
}

#[derive(Default)]
struct LocalState {
    /// Taken and not started.
    queue: VecDeque<Work>,
    /// Finished and not reported.
    done: Vec<Done>,
    /// At the handler: the indices of a message or of a batch.
    current: Vec<u32>,
    /// Rises with each message started.
    steps: u64,
    /// The worker has woken another task and may go on to a handler.
    woke: bool,
}

/// How much a worker asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) max: usize,
    /// Whether another worker is to look at what is left. With very quick handlers it would only
    /// get in the way.
    pub(crate) share: bool,
}

impl Chunk {
    /// The first of a worker whose handler is not known yet.
    pub(crate) const FIRST: Self = Self {
        max: 1,
        share: true,
    };

    /// The one after this, which took `took`, or whose time was spent waiting.
    pub(crate) fn next(self, took: Option<Duration>) -> Self {
        let max = match took {
            Some(took) if took < SHORT => (self.max * 2).min(MAX_CHUNK),
            Some(took) if took <= 4 * SHORT => self.max,
            _ => (self.max / 2).max(1),
        };
        Self {
            max,
            share: max < MAX_CHUNK,
        }
    }
}

/// What a worker is to do.
pub(crate) enum Next {
    /// Go on with the local queue.
    Work,
    /// Wait for [`Shared::wait_for_work`].
    Wait,
    /// End.
    Stop,
}

impl Shared {
    pub(crate) fn new(
        settings: RunSettings,
        driver: &Capabilities,
        info: Arc<SubscriptionInfo>,
        workers: Arc<dyn Workers>,
    ) -> Arc<Self> {
        let local = || Local {
            state: Mutex::default(),
            cancel: Arc::default(),
        };
        Arc::new(Self {
            state: Mutex::new(Pool {
                dispatcher: Dispatcher::new(&settings, driver),
                spawned: 0,
                idle: 0,
                awake: 0,
                fetcher_waits: FetcherWaits::default(),
                fetcher_woken: Instant::now(),
                taken: 0,
                stopping: false,
            }),
            locals: (0..settings.concurrency).map(|_| local()).collect(),
            work: Semaphore::new(0),
            fetcher: Notify::new(),
            ballast: Notify::new(),
            tasks: Tasks::default(),
            workers,
            info,
            settings,
        })
    }

    /// Whether what a handler publishes is written together with its acknowledgement.
    pub(crate) fn exactly_once(&self) -> bool {
        self.settings.exactly_once
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Pool> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn local(&self, worker: u16) -> MutexGuard<'_, LocalState> {
        let local = &self.locals[usize::from(worker)];
        local.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cancel_cell(&self, worker: u16) -> Arc<CancelCell> {
        self.locals[usize::from(worker)].cancel.clone()
    }

    /// Adds what was fetched and wakes workers for it.
    pub(crate) fn push(self: &Arc<Self>, deliveries: &mut Vec<Delivery>, now: Instant) {
        let mut pool = self.lock();
        for delivery in deliveries.drain(..) {
            pool.dispatcher.push(delivery, now);
        }
        self.wake_if_needed(&mut pool);
    }

    /// Wakes a worker if messages may run and nobody is about to take them.
    pub(crate) fn wake_if_needed(self: &Arc<Self>, pool: &mut Pool) -> bool {
        let ready = pool.dispatcher.ready();
        ready > 0 && (pool.awake == 0 || ready > 2 * MAX_CHUNK) && self.wake_one(pool)
    }

    /// Whether there is an idle worker, or one more can be started.
    pub(crate) fn can_wake(&self, pool: &Pool) -> bool {
        pool.idle > 0 || pool.spawned < self.locals.len()
    }

    /// Wakes an idle worker, or starts one more; `false` says that there is none.
    pub(crate) fn wake_one(self: &Arc<Self>, pool: &mut Pool) -> bool {
        if pool.stopping {
            return false;
        }
        if pool.idle > 0 {
            pool.idle -= 1;
            pool.awake += 1;
            self.work.add_permits(1);
            true
        } else if pool.spawned < self.locals.len() {
            let Ok(worker) = u16::try_from(pool.spawned) else {
                return false;
            };
            pool.spawned += 1;
            pool.awake += 1;
            let run = self.workers.run(self.clone(), worker);
            self.tasks.spawn(run);
            true
        } else {
            false
        }
    }

    /// A worker has emptied its local queue: reports it, and takes the next chunk.
    pub(crate) fn next_chunk(
        self: &Arc<Self>,
        worker: u16,
        chunk: Chunk,
        suspended: bool,
        now: Instant,
    ) -> Next {
        let mut pool = self.lock();
        let pool = &mut *pool;
        if suspended {
            pool.awake += 1;
        }
        let mut local = self.local(worker);
        Self::report(pool, &mut local);
        if pool.stopping {
            pool.awake -= 1;
            self.wake_fetcher(pool);
            return Next::Stop;
        }
        pool.dispatcher.take(chunk.max, worker, &mut local.queue);
        if local.queue.is_empty() {
            pool.awake -= 1;
            pool.idle += 1;
            self.wake_fetcher(pool);
            return Next::Wait;
        }
        pool.taken += 1;
        if pool.dispatcher.ready() > 0 && chunk.share {
            local.woke |= self.wake_one(pool);
        }
        // Going on by itself, it wakes the fetcher only now and then.
        if now.saturating_duration_since(pool.fetcher_woken) > FETCHER_EVERY {
            pool.fetcher_woken = now;
            local.woke |= self.wake_fetcher(pool);
        }
        if std::mem::take(&mut local.woke) {
            self.let_go();
        }
        Next::Work
    }

    /// Makes the tasks that this worker has woken free for other threads.
    ///
    /// Tokio keeps the task woken last for the thread that woke it, where no other thread can take
    /// it; it would wait behind a handler that blocks this thread. Waking one more task, which does
    /// nothing, takes that place. A worker that is about to wait need not do this: its thread goes
    /// on with the task it woke.
    ///
    /// The fetcher does it too where the clock woke it: its thread is then the one that drives the
    /// timers, and no other takes that over while there is but one task to run.
    pub(crate) fn let_go(&self) {
        self.ballast.notify_one();
    }

    /// Waits until [`Shared::wake_one`] has chosen this worker, or [`Shared::stop`] wakes all.
    pub(crate) async fn wait_for_work(&self) {
        if let Ok(permit) = self.work.acquire().await {
            permit.forget();
        }
    }

    /// Reports the message just handled, if it ended well, and starts the next one taken.
    ///
    /// Its cancellation begins under the same lock as it becomes current, so that
    /// [`Shared::cancel`] cannot hit the one before.
    pub(crate) fn step(&self, worker: u16, done: Option<Done>) -> Option<(Work, u64)> {
        let mut local = self.local(worker);
        local.done.extend(done);
        local.current.clear();
        let work = local.queue.pop_front()?;
        local.steps += 1;
        local.current.push(work.index);
        Some((work, self.locals[usize::from(worker)].cancel.begin()))
    }

    /// Starts everything taken, as one batch.
    pub(crate) fn start_batch(&self, worker: u16, out: &mut Vec<Work>) -> u64 {
        let mut local = self.local(worker);
        let local = &mut *local;
        local.steps += 1;
        local.current.clear();
        local
            .current
            .extend(local.queue.iter().map(|work| work.index));
        out.extend(local.queue.drain(..));
        self.locals[usize::from(worker)].cancel.begin()
    }

    /// A handler has to wait: others take over what this worker has taken and not started.
    pub(crate) fn suspend(self: &Arc<Self>, worker: u16) {
        let mut pool = self.lock();
        let pool = &mut *pool;
        pool.awake -= 1;
        let mut local = self.local(worker);
        Self::report(pool, &mut local);
        pool.dispatcher.give_back(&mut local.queue);
        self.wake_fetcher(pool);
        self.wake_if_needed(pool);
    }

    /// Reports messages that did not end well. What this worker has not started goes back first, so
    /// that nothing of the same lane runs ahead.
    pub(crate) fn finish(self: &Arc<Self>, worker: u16, done: impl IntoIterator<Item = Done>) {
        let mut pool = self.lock();
        let pool = &mut *pool;
        let mut local = self.local(worker);
        Self::report(pool, &mut local);
        pool.dispatcher.give_back(&mut local.queue);
        local.done.extend(done);
        Self::report(pool, &mut local);
        local.current.clear();
        local.woke |= self.wake_fetcher(pool);
        local.woke |= self.wake_if_needed(pool);
    }

    /// Moves a worker's finished messages to the dispatcher.
    fn report(pool: &mut Pool, local: &mut LocalState) {
        let mut now = None;
        for done in local.done.drain(..) {
            pool.dispatcher
                .finish(done, || *now.get_or_insert_with(Instant::now));
        }
    }

    /// Wakes the fetcher if what it waits for has come; `false` says that it has not.
    fn wake_fetcher(&self, pool: &mut Pool) -> bool {
        let waits = pool.fetcher_waits;
        let dispatcher = &pool.dispatcher;
        let earlier = match (dispatcher.next_retry(), waits.until) {
            (Some(retry), Some(until)) => retry < until,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let wakes = waits.asleep
            && (earlier
                || (waits.settlements && dispatcher.unsettled() > 0)
                || waits.room.is_some_and(|room| {
                    dispatcher.room_once_settled() >= room || dispatcher.ready() == 0
                })
                || (waits.drain && dispatcher.running() == 0));
        if wakes {
            pool.fetcher_waits.asleep = false;
            self.fetcher.notify_one();
        }
        wakes
    }

    /// Whether a worker has taken messages and not started them, while it is at another; with the
    /// number of messages it has started.
    pub(crate) fn hostages(&self, pool: &Pool) -> Vec<(u16, u64)> {
        (0..pool.spawned)
            .filter_map(|worker| u16::try_from(worker).ok())
            .filter_map(|worker| {
                let local = self.local(worker);
                (!local.queue.is_empty()).then_some((worker, local.steps))
            })
            .collect()
    }

    /// Takes back what a worker stuck in a handler has not started, if it is still at the same
    /// message.
    pub(crate) fn reclaim(self: &Arc<Self>, pool: &mut Pool, worker: u16, steps: Option<u64>) {
        let mut local = self.local(worker);
        if steps.is_some_and(|steps| steps != local.steps) {
            return;
        }
        Self::report(pool, &mut local);
        pool.dispatcher.give_back(&mut local.queue);
    }

    /// Tells handlers that their message is lost.
    pub(crate) fn cancel(&self, lost: &[(u16, u32)]) {
        for (worker, index) in lost {
            let local = self.local(*worker);
            if local.current.contains(index) {
                let cell = &self.locals[usize::from(*worker)].cancel;
                cell.cancel_current();
            }
        }
    }

    /// No handler is started from now on; what was not started goes back.
    pub(crate) fn stop(self: &Arc<Self>, now: Instant) {
        let mut pool = self.lock();
        let pool = &mut *pool;
        if pool.stopping {
            return;
        }
        for worker in 0..pool.spawned {
            if let Ok(worker) = u16::try_from(worker) {
                self.reclaim(pool, worker, None);
            }
        }
        pool.stopping = true;
        pool.dispatcher.stop(now);
        pool.awake += std::mem::take(&mut pool.idle);
        self.work.close();
    }

    /// Cancels every running handler.
    pub(crate) fn cancel_all(&self) {
        let spawned = self.lock().spawned;
        for local in &self.locals[..spawned] {
            local.cancel.cancel_current();
        }
    }

    /// The task that [`Shared::let_go`] wakes.
    pub(crate) async fn be_ballast(&self) {
        loop {
            self.ballast.notified().await;
        }
    }

    /// Ends the workers, also those in the middle of a handler.
    pub(crate) fn abort(&self) {
        self.tasks.abort();
    }
}
