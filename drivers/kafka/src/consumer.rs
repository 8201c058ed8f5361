//! The consumer of a subscription, on a thread of its own.
//!
//! The thread serves the client: rebalances, commits, statistics, errors. Messages do not pass
//! through it (see `partitions.rs`), so it is never late, however slow handlers are, and
//! `max.poll.interval.ms` is kept by itself.
//!
//! A rebalance is carried out within the client's callback on this thread. When partitions are to
//! go, it tells the subscription and waits until that has let go of them, then commits what was
//! settled and lets the group have them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Statistics, TopicPartitionList};
use streams_core::{Assignment, Error, ErrorKind, Result, StartFrom, StreamName};
use tokio::sync::{Notify, oneshot};

use crate::commits::Commits;
use crate::config::DRIVER;
use crate::context::ClientEvents;
use crate::control::{Command, SeekTo};
use crate::error::error;
use crate::metrics::Gauges;
use crate::options::Plan;
use crate::partitions::{Facts, Partition};
use crate::start::resolve;

/// How long the thread waits for the client at a time; commits and commands may come meanwhile.
const POLL: Duration = Duration::from_millis(100);
/// How long a subscription may take to let go of partitions. The runner takes its `revoke_grace`.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long positions may be on their way.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the client may take to move to another position.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The subscription is asked to let go of partitions and has not yet.
    releasing: bool,
    pub(crate) closing: bool,
}

impl State {
    /// What nobody will look at any more.
    fn take_left(&mut self) -> (VecDeque<Event>, VecDeque<Command>) {
        (std::mem::take(&mut self.events), std::mem::take(&mut self.commands))
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

    fn tell(&self, state: &mut State, event: Event) {
        state.events.push_back(event);
        self.has_events.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Has the subscription let go of these partitions, and waits until it has.
    fn release(&self, going: Vec<Assignment>) {
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
    pub(crate) fn assign(&self, consumer: &Arc<BaseConsumer<Events>>, partitions: &[u32]) {
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
    fn forget(&self, partitions: &[u32]) -> Vec<Assignment> {
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

    fn held(&self, partitions: &[u32]) -> Vec<Assignment> {
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

impl Partition {
    fn new(
        shared: &Shared,
        consumer: &Arc<BaseConsumer<Events>>,
        number: u32,
        epoch: u32,
    ) -> Option<Self> {
        let mut queue =
            consumer.split_partition_queue(shared.stream.as_str(), i32::try_from(number).ok()?)?;
        let ready = Arc::new(AtomicBool::new(true));
        let flag = ready.clone();
        let context = consumer.context().shared.clone();
        queue.set_nonempty_callback(move || {
            flag.store(true, Ordering::Release);
            context.wake.notify_one();
        });
        Some(Self {
            assignment: Assignment {
                partition: number,
                epoch,
            },
            queue,
            ready,
            facts: Arc::new(Facts {
                client_id: shared.client_id.clone(),
                group: shared.plan.group.as_deref().map(Into::into),
                first: AtomicI64::new(-1),
                high_watermark: AtomicI64::new(-1),
            }),
            delivered: Arc::new(AtomicI64::new(-1)),
            ended: false,
        })
    }
}

/// What the client calls back on: always on the consumer's own thread.
pub(crate) struct Events {
    client: ClientEvents,
    shared: Arc<Shared>,
    gauges: Gauges,
    /// Since when positions are on their way to the coordinator: the next go when these have come.
    committing: Mutex<Option<Instant>>,
    /// The consumer itself. It is gone while it is dropped, when it revokes all it holds.
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
}

impl Events {
    pub(crate) fn new(client: ClientEvents, shared: Arc<Shared>) -> Self {
        Self {
            client,
            gauges: Gauges::new(&shared),
            shared,
            committing: Mutex::default(),
            consumer: OnceLock::new(),
        }
    }

    fn consumer(&self) -> Option<Arc<BaseConsumer<Self>>> {
        self.consumer.get().and_then(Weak::upgrade)
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        // What was on its way was of another generation of the group.
        self.set_committing(None);
        // The queues are split before there is anything to put into them.
        if let Some(consumer) = self.consumer() {
            self.shared.assign(&consumer, &numbers(list));
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.assign(list),
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let numbers = numbers(list);
        if consumer.assignment_lost() {
            let gone = self.shared.forget(&numbers);
            tracing::warn!(stream = %self.shared.stream, ?gone, "partitions went to another member");
            if !gone.is_empty() {
                let mut state = self.shared.lock();
                self.shared.tell(&mut state, Event::Lost(gone));
            }
        } else {
            self.shared.release(self.shared.held(&numbers));
            self.commit(consumer, Some(&numbers), CommitMode::Sync);
            self.shared.forget(&numbers);
        }
        self.gauges.forget(&numbers);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.unassign(),
        }
    }

    fn set_committing(&self, since: Option<Instant>) {
        *self.committing.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Whether positions are on their way. The client leaves out the answer when the member is given
    /// up meanwhile; then they are sent again.
    fn is_committing(&self) -> bool {
        let mut committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        match *committing {
            Some(since) if since.elapsed() < COMMIT_TIMEOUT => true,
            Some(_) => {
                *committing = None;
                self.shared.lock().commits.unanswered();
                false
            }
            None => false,
        }
    }

    /// Commits what was settled since the last time.
    fn commit(&self, consumer: &BaseConsumer<Self>, only: Option<&[u32]>, mode: CommitMode) {
        if self.shared.plan.group.is_none() {
            return;
        }
        let list = self
            .shared
            .lock()
            .commits
            .take(self.shared.stream.as_str(), only);
        let Some(list) = list else { return };
        // Not under the lock: it may wait for the broker.
        if let CommitMode::Async = mode {
            self.set_committing(Some(Instant::now()));
        }
        if let Err(error) = consumer.commit(&list, mode) {
            self.commit_callback(Err(error), &list);
        }
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<u32> {
    let elements = list.elements();
    let numbers = elements.iter().map(|e| u32::try_from(e.partition()));
    numbers.filter_map(Result::ok).collect()
}

impl ClientContext for Events {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.gauges.update(&self.shared, &statistics);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.client.token()
    }
}

impl ConsumerContext for Events {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.revoked(consumer, list),
        };
        if let Err(source) = result {
            self.shared.fail("a rebalance failed", &source);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        self.set_committing(None);
        let Err(error) = result else { return };
        tracing::warn!(
            stream = %self.shared.stream, %error,
            "committing positions failed; they are committed again with the next"
        );
        self.shared.lock().commits.failed(list);
    }
}

/// Starts the thread. It ends when the subscription is closed; `ended` is answered then.
pub(crate) fn start(
    consumer: BaseConsumer<Events>,
    ended: oneshot::Sender<()>,
) -> Result<Arc<BaseConsumer<Events>>> {
    let consumer = Arc::new(consumer);
    let events = consumer.context().clone();
    let _ = events.consumer.set(Arc::downgrade(&consumer));
    let theirs = consumer.clone();
    std::thread::Builder::new()
        .name(format!("kafka {}", events.shared.stream))
        .spawn(move || {
            serve(&consumer, &events);
            events.commit(&consumer, None, CommitMode::Sync);
            // What nobody took holds the consumer too.
            let left = events.shared.lock().take_left();
            drop(left);
            // Dropping the last handle leaves the group, and waits for that.
            drop(consumer);
            let _ = ended.send(());
        })
        .map_err(|source| {
            Error::new(
                ErrorKind::Unavailable,
                "cannot start the thread that serves the consumer; raise the limit of threads",
            )
            .driver(DRIVER)
            .source(source)
        })?;
    Ok(theirs)
}

fn serve(consumer: &Arc<BaseConsumer<Events>>, events: &Events) {
    let shared = &events.shared;
    let interval = match shared.plan.commit_interval {
        Duration::ZERO => POLL, // only what a failed settle has left
        interval => interval,
    };
    let mut committed = Instant::now();
    loop {
        let command = {
            let mut state = shared.lock();
            if state.closing {
                return;
            }
            state.commands.pop_front()
        };
        if let Some(command) = command {
            carry_out(consumer, events, command);
            continue;
        }
        let wait = interval
            .saturating_sub(committed.elapsed())
            .clamp(Duration::from_millis(1), POLL);
        match consumer.poll(wait) {
            None => {}
            Some(Ok(_)) => {
                // A message that came before its partition's queue was split. There is none: the
                // queues are split before partitions are assigned.
                tracing::error!(stream = %shared.stream, "a message came past its partition's queue");
                debug_assert!(false, "a message came past its partition's queue");
            }
            Some(Err(source)) => {
                if let Some(error) = fatal(&source) {
                    let error = error.with("stream", &shared.stream);
                    shared.tell(&mut shared.lock(), Event::Failed(error));
                }
            }
        }
        if committed.elapsed() >= interval && !events.is_committing() {
            committed = Instant::now();
            events.commit(consumer, None, CommitMode::Async);
        }
    }
}

/// The error that ends the subscription, if this one does: the client mends most by itself.
pub(crate) fn fatal(source: &KafkaError) -> Option<Error> {
    let ends = matches!(source, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            source.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
    ends.then(|| error(source, "receive"))
}

/// Carries out what the control asks for.
fn carry_out(consumer: &Arc<BaseConsumer<Events>>, events: &Events, command: Command) {
    let shared = &events.shared;
    let topic = shared.stream.as_str();
    match command {
        Command::Seek {
            partition,
            to,
            done,
        } => {
            let held = shared.held(&[partition]);
            if held.is_empty() {
                let _ = done.send(Err(not_held(partition)));
                return;
            }
            // As if the partition went and came back elsewhere: what was fetched of it is dropped.
            shared.release(held);
            events.commit(consumer, Some(&[partition]), CommitMode::Sync);
            shared.forget(&[partition]);
            let sought = seek(consumer, topic, partition, to);
            shared.assign(consumer, &[partition]);
            if let Err(error) = &sought {
                // What was fetched is dropped, and the client did not move: only opening it anew
                // brings that back.
                shared.fail("seeking failed", error);
            }
            let _ = done.send(sought);
        }
        Command::Pause { partitions, done } => {
            let _ = done.send(pause_or_resume(shared, &partitions, |list| {
                consumer.pause(list)
            }));
        }
        Command::Resume { partitions, done } => {
            let _ = done.send(pause_or_resume(shared, &partitions, |list| {
                consumer.resume(list)
            }));
        }
    }
}

fn seek(
    consumer: &BaseConsumer<Events>,
    topic: &str,
    partition: u32,
    to: SeekTo,
) -> Result<()> {
    // To an offset in any case: the client looks up where the ends are only after it has said that
    // it is there, and then a second seek may come between.
    let start = match to {
        SeekTo::Beginning => StartFrom::Earliest,
        SeekTo::End => StartFrom::Latest,
        SeekTo::Offset(offset) => StartFrom::Position(offset.to_string()),
    };
    let resolved = resolve(consumer, topic, &[partition], &start, SEEK_TIMEOUT)?;
    for element in resolved.elements() {
        consumer
            .seek(topic, element.partition(), element.offset(), SEEK_TIMEOUT)
            .map_err(|source| error(&source, "seek").with("partition", partition))?;
    }
    Ok(())
}

fn pause_or_resume(
    shared: &Shared,
    partitions: &[u32],
    act: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>,
) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        if shared.held(&[*partition]).is_empty() {
            return Err(not_held(*partition));
        }
        let number = i32::try_from(*partition).unwrap_or(i32::MAX);
        list.add_partition(shared.stream.as_str(), number);
    }
    act(&list).map_err(|source| error(&source, "pause"))
}

pub(crate) fn not_held(partition: u32) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the subscription does not hold this partition; see `KafkaControl::partitions` for those \
         it holds",
    )
    .driver(DRIVER)
    .with("partition", partition)
}
