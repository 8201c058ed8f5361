//! The bus: one writer, one reader, a registry, and the subscriptions that run on them.

mod report;
mod subscribe;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

pub use report::{Activity, RunReport, SubscriptionReport};
pub use subscribe::{BatchHandling, SingleHandling, SubscriptionBuilder};

use crate::event::Event;
use crate::runner::{Plan, Running};
use crate::{
    AnyDriver, Backoff, Clock, Driver, Error, ErrorKind, EventRegistry, IdentifierFactory,
    IntoStreamName, MessageId, Publisher, Reader, Result, uuid_v7,
};

/// Publishes events and runs the handlers that subscribe to them. Cheap to clone; clones are one
/// bus.
///
/// The type parameter is the driver, so that options of another driver do not compile. A driver
/// picked at run time is [`AnyDriver`].
///
/// Life of a bus: build it, register subscriptions, [`start`](Bus::start) or [`run`](Bus::run),
/// publish, [`shutdown`](Bus::shutdown).
pub struct Bus<D: Driver = AnyDriver> {
    inner: Arc<Inner>,
    driver: PhantomData<fn(D)>,
}

struct Inner {
    reader: Arc<dyn Reader>,
    publisher: Publisher,
    clock: Clock,
    shutdown_deadline: Duration,
    start_timeout: Duration,
    state: Mutex<State>,
    /// Something a test may wait for has changed.
    changed: Arc<Notify>,
    /// A subscription has ended by itself.
    ended: Arc<Notify>,
    report: OnceCell<RunReport>,
}

#[derive(Default)]
struct State {
    plans: Vec<Plan>,
    running: Vec<Arc<Running>>,
    closed: bool,
}

/// Builds a [`Bus`].
#[must_use = "a builder makes nothing until `build`"]
pub struct BusBuilder<D> {
    driver: D,
    registry: EventRegistry,
    identifiers: Arc<dyn IdentifierFactory>,
    clock: Clock,
    shutdown_deadline: Duration,
    start_timeout: Duration,
    problem: Option<Error>,
}

impl<D: Driver> BusBuilder<D> {
    /// Uses a registry that others may share. Give it before [`event`](BusBuilder::event).
    pub fn registry(mut self, registry: EventRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Registers an event under the stream it declares.
    pub fn event<E: Event>(mut self) -> Self {
        if let Err(error) = self.registry.register::<E>() {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// Registers an event under a stream of your choice.
    pub fn event_to<E: Event>(mut self, stream: impl IntoStreamName) -> Self {
        if let Err(error) = self.registry.register_to::<E>(stream) {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// Sets what makes message ids; the default is [`uuid_v7`].
    pub fn identifier_factory(mut self, factory: impl IdentifierFactory) -> Self {
        self.identifiers = Arc::new(factory);
        self
    }

    /// Sets the clock; the default is the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long [`Bus::run`] lets running handlers finish at shutdown; the default is 30 s.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.shutdown_deadline = deadline;
        self
    }

    /// Sets how long [`Bus::start`] keeps trying to open a subscription on a backend that cannot be
    /// reached; the default is 30 s.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// The bus.
    ///
    /// # Errors
    /// The first that registering an event met.
    pub fn build(self) -> Result<Bus<D>> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let identifiers = self.identifiers;
        let publisher = Publisher::builder(self.driver.writer())
            .registry(self.registry)
            .identifier_factory(move || identifiers.make())
            .clock(self.clock)
            .build();
        Ok(Bus {
            inner: Arc::new(Inner {
                reader: self.driver.reader(),
                publisher,
                clock: self.clock,
                shutdown_deadline: self.shutdown_deadline,
                start_timeout: self.start_timeout,
                state: Mutex::default(),
                changed: Arc::default(),
                ended: Arc::default(),
                report: OnceCell::new(),
            }),
            driver: PhantomData,
        })
    }
}

impl<D: Driver> Bus<D> {
    /// A bus on a driver, with default settings and an empty registry.
    pub fn new(driver: D) -> Self {
        match Self::builder(driver).build() {
            Ok(bus) => bus,
            Err(error) => unreachable!("no event was registered that could fail: {error}"),
        }
    }

    /// Starts a bus on a driver.
    pub fn builder(driver: D) -> BusBuilder<D> {
        BusBuilder {
            driver,
            registry: EventRegistry::new(),
            identifiers: Arc::new(uuid_v7),
            clock: Clock::system(),
            shutdown_deadline: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            problem: None,
        }
    }

    /// The publisher: clone it into whatever publishes.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    /// The registry of events.
    #[must_use]
    pub fn registry(&self) -> &EventRegistry {
        self.inner.publisher.registry()
    }

    /// As [`Publisher::publish`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<MessageId> {
        self.inner.publisher.publish(event).await
    }

    /// As [`Publisher::publish_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_all<E: Event>(&self, events: &[E]) -> Result<()> {
        self.inner.publisher.publish_all(events).await
    }

    /// As [`Publisher::publish_all_in_transaction`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_all_in_transaction<E: Event>(&self, events: &[E]) -> Result<()> {
        let publisher = &self.inner.publisher;
        publisher.publish_all_in_transaction(events).await
    }

    /// As [`Publisher::publish_to`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_to<E: Event>(
        &self,
        stream: impl IntoStreamName,
        event: &E,
    ) -> Result<MessageId> {
        self.inner.publisher.publish_to(stream, event).await
    }

    /// As [`Publisher::publish_at`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_at<E: Event>(&self, event: &E, due: SystemTime) -> Result<MessageId> {
        self.inner.publisher.publish_at(event, due).await
    }

    /// As [`Publisher::publish_after`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_after<E: Event>(&self, event: &E, delay: Duration) -> Result<MessageId> {
        self.inner.publisher.publish_after(event, delay).await
    }

    /// Opens every subscription registered since the last start and runs its handlers in the
    /// background. When it returns, what is published reaches them.
    ///
    /// A backend that cannot be reached is tried again with backoff until the start timeout.
    ///
    /// # Errors
    /// - [`NoSubscriberRegistered`](ErrorKind::NoSubscriberRegistered) when none ever was.
    /// - [`Closed`](ErrorKind::Closed) after shutdown.
    /// - The driver's, for a subscription it refuses. Those opened before it stay open until
    ///   [`shutdown`](Bus::shutdown).
    pub async fn start(&self) -> Result<()> {
        let plans = {
            let mut state = self.lock();
            if state.closed {
                return Err(Error::closed("the bus").operation("start"));
            }
            if state.plans.is_empty() && state.running.is_empty() {
                return Err(Error::new(
                    ErrorKind::NoSubscriberRegistered,
                    "the bus has no subscription; call `subscribe` and `register` before starting it",
                )
                .retryable(false)
                .operation("start"));
            }
            std::mem::take(&mut state.plans)
        };
        let until = Instant::now() + self.inner.start_timeout;
        for plan in plans {
            let running = self.open(plan, until).await?;
            let late = {
                let mut state = self.lock();
                state.running.push(running.clone());
                state.closed
            };
            if late {
                // A shutdown has gone by meanwhile and has not seen this one.
                running.shutdown(Instant::now()).await;
                return Err(Error::closed("the bus").operation("start"));
            }
        }
        Ok(())
    }

    async fn open(&self, plan: Plan, until: Instant) -> Result<Arc<Running>> {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.inner.reader.subscribe(&plan.options).await {
                Ok(subscription) => {
                    return Ok(plan.run(self.inner.reader.clone(), subscription));
                }
                Err(error) => error,
            };
            let delay = backoff.delay(attempt);
            if !error.is_retryable() || Instant::now() + delay > until {
                return Err(error.with("stream", &plan.options.stream));
            }
            tracing::warn!(
                stream = %plan.options.stream, attempt, ?delay, error = %error,
                "cannot open the subscription; trying again"
            );
            tokio::time::sleep(delay).await;
        }
    }

    /// Starts, runs until `until` is ready, then shuts down within the deadline set at
    /// [`BusBuilder::shutdown_deadline`].
    ///
    /// ```no_run
    /// # async fn example(bus: streams_core::Bus) -> streams_core::Result<()> {
    /// let report = bus.run(async { tokio::time::sleep(std::time::Duration::from_secs(1)).await }).await?;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Bus::start), and the error of a subscription that ended because trying again
    /// cannot help; the others are shut down first.
    pub async fn run(&self, until: impl Future<Output = ()>) -> Result<RunReport> {
        if let Err(error) = self.start().await {
            let opened = !self.lock().running.is_empty();
            if opened {
                let _ = self.shutdown(self.inner.shutdown_deadline).await;
            }
            return Err(error);
        }
        let failed = tokio::select! {
            () = until => None,
            error = self.failed() => Some(error),
        };
        let report = self.shutdown(self.inner.shutdown_deadline).await;
        match failed {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// Waits until a subscription ends because trying again cannot help, and takes its error.
    pub async fn failed(&self) -> Error {
        loop {
            let mut ended = std::pin::pin!(self.inner.ended.notified());
            ended.as_mut().enable();
            if let Some(error) = self.lock().running.iter().find_map(|r| r.take_error()) {
                return error;
            }
            ended.await;
        }
    }

    /// Stops, in this order: no more fetching; what never started goes back; running handlers
    /// finish, until the deadline; everything is settled; the writer is flushed and closed. Handlers
    /// still running at the deadline are cancelled and counted as abandoned.
    ///
    /// A second call waits for the first and returns the same report.
    pub async fn shutdown(&self, deadline: Duration) -> RunReport {
        let at = Instant::now() + deadline;
        self.inner
            .report
            .get_or_init(|| async {
                let running = {
                    let mut state = self.lock();
                    state.closed = true;
                    state.plans.clear();
                    state.running.clone()
                };
                let all: Vec<_> = running
                    .into_iter()
                    .map(|running| tokio::spawn(async move { running.shutdown(at).await }))
                    .collect();
                let mut report = RunReport::default();
                for one in all {
                    if let Ok(one) = one.await {
                        report.subscriptions.push(one);
                    }
                }
                self.inner.publisher.close();
                let patience = at
                    .saturating_duration_since(Instant::now())
                    .max(Duration::from_secs(1));
                let closed = tokio::time::timeout(patience, self.inner.publisher.writer().close());
                report.writer_error = match closed.await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("closing the writer took longer than {patience:?}")),
                };
                self.inner.changed.notify_waiters();
                report
            })
            .await
            .clone()
    }

    /// What the runner is doing right now, over all subscriptions.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let running = self.lock().running.clone();
        running.iter().map(|running| running.activity()).sum()
    }

    /// Waits until `condition` holds, looking each time the runner has settled or put off
    /// something. For test helpers; see `wait_idle` of the in-memory driver.
    pub async fn wait_until(&self, mut condition: impl FnMut(Activity) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            if condition(self.activity()) {
                return;
            }
            changed.await;
        }
    }

    /// Has [`wait_until`](Bus::wait_until) look again, for drivers whose state it asks about.
    #[must_use]
    pub fn change_signal(&self) -> Arc<Notify> {
        self.inner.changed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Driver> Clone for Bus<D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            driver: PhantomData,
        }
    }
}

impl<D: Driver> fmt::Debug for Bus<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Bus")
            .field("driver", &self.inner.reader.capabilities().driver)
            .field("registered", &state.plans.len())
            .field("running", &state.running.len())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

impl<D> fmt::Debug for BusBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}
