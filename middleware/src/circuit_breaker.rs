//! Circuit breaker: when what a handler depends on is down, deliveries wait instead of failing.
//!
//! The circuit is **closed** while things go well. Too many failures **open** it: no handler is called
//! for a while. Then it is **half-open**: a few deliveries try, and by their results it closes or
//! opens again.
//!
//! # Behavior
//! - Clones share one circuit: give the same one to all subscriptions that use the same dependency.
//! - While it is open, deliveries **wait inside this layer**, each holding its worker. They are not
//!   retried instead, because each retry counts as an attempt: an outage longer than the attempts
//!   last would send messages to the dead letters that no handler has seen. Fetching stops at the
//!   subscription's limit in flight.
//! - A delivery whose lease or partition is lost while it waits is
//!   [released](streams_core::Outcome::Release), and so is one whose deadline comes. Leases are kept
//!   up meanwhile.
//! - A call failed if one of its deliveries ended in an error that is not unrecoverable
//!   ([`failure_if`](CircuitBreakerBuilder::failure_if) decides otherwise), or if it was dropped
//!   before it ended. It succeeded if it did not fail and one was acknowledged or dead-lettered.
//!   Anything else (a handler that asks for a retry) counts as neither.
//! - A batch is one call.
//! - Opening is logged at `WARN`, closing at `INFO`.
//! - At shutdown, deliveries that wait are given up at the deadline; they are not acknowledged.
//!
//! # Where it belongs
//! Inside [`Retry`](crate::Retry), which hides errors from what is outside. Around
//! [`Timeout`](crate::Timeout), so that calls which hang count as failures, and around
//! [`Deduplication`](crate::Deduplication), so that a claim does not expire while it waits.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_core::{Error, Handler, HandlerError, HandlerResult, Input, Layer, Outcome, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::wait;

/// The layer. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use streams_middleware::CircuitBreaker;
/// use streams_middleware::circuit_breaker::CircuitState;
///
/// let payments = CircuitBreaker::builder()
///     .failure_ratio(0.5, 20)
///     .open_for(Duration::from_secs(10))
///     .probes(2)
///     .build()?;
/// // Give `payments.clone()` to each subscription that calls the payment service.
/// assert_eq!(payments.state(), CircuitState::Closed);
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone)]
pub struct CircuitBreaker {
    circuit: Arc<Circuit>,
}

/// Whether deliveries pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// All pass.
    Closed,
    /// None passes.
    Open,
    /// A few pass, to see whether it can be closed.
    HalfOpen,
}

impl CircuitBreaker {
    /// Starts from the defaults: opens after 5 failures in a row, for 30 s, then lets one delivery
    /// try.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder(Settings {
            trip: Trip::Consecutive(5),
            open_for: Duration::from_secs(30),
            probes: 1,
            failure_if: None,
        })
    }

    /// What state it is in, for health checks. An open circuit whose time is over stays open until
    /// a delivery comes to try.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        match self.circuit.lock().phase {
            Phase::Closed => CircuitState::Closed,
            Phase::Open { .. } => CircuitState::Open,
            Phase::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("state", &self.state())
            .field("settings", &self.circuit.settings)
            .finish()
    }
}

/// Builds a [`CircuitBreaker`].
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `build`"]
pub struct CircuitBreakerBuilder(Settings);

impl CircuitBreakerBuilder {
    /// Opens after this many failures in a row.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.0.trip = Trip::Consecutive(failures);
        self
    }

    /// Opens when, of the last `calls` calls, this part failed: 0.5 is half. Only once there have
    /// been that many calls.
    pub fn failure_ratio(mut self, ratio: f64, calls: usize) -> Self {
        self.0.trip = Trip::Ratio { ratio, calls };
        self
    }

    /// Sets how long it stays open before it lets deliveries try.
    pub fn open_for(mut self, duration: Duration) -> Self {
        self.0.open_for = duration;
        self
    }

    /// Sets how many deliveries try while it is half-open, and must succeed to close it.
    pub fn probes(mut self, probes: u32) -> Self {
        self.0.probes = probes;
        self
    }

    /// Sets which errors count as failures of the dependency; the default is those that are not
    /// unrecoverable, as these are the message's own fault.
    pub fn failure_if(
        mut self,
        classifier: impl Fn(&HandlerError) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.0.failure_if = Some(Arc::new(classifier));
        self
    }

    /// The layer, its circuit closed.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a count or a duration of zero,
    /// or a ratio that is not above 0 and at most 1.
    pub fn build(self) -> Result<CircuitBreaker> {
        let problem = match self.0.trip {
            Trip::Consecutive(0) => {
                "opens after 0 failures, so it would never close; use 1 or more"
            }
            Trip::Ratio { ratio, .. } if !(ratio > 0.0 && ratio <= 1.0) => {
                "has a failure ratio that is not above 0 and at most 1; 0.5 is half"
            }
            Trip::Ratio { calls: 0, .. } => "looks at the last 0 calls; use 1 or more",
            _ if self.0.open_for.is_zero() => {
                "stays open for no time, so it would do nothing; set `open_for`"
            }
            _ if self.0.probes == 0 => {
                "lets nobody try while half-open, so it would never close; use 1 or more"
            }
            _ => {
                let circuit = Circuit {
                    settings: self.0,
                    state: Mutex::new(State {
                        phase: Phase::Closed,
                        generation: 0,
                        recent: Recent::default(),
                    }),
                    changed: Notify::new(),
                };
                return Ok(CircuitBreaker {
                    circuit: Arc::new(circuit),
                });
            }
        };
        Err(Error::invalid_config(format!(
            "the circuit breaker {problem}"
        )))
    }
}

type Classifier = Arc<dyn Fn(&HandlerError) -> bool + Send + Sync>;

#[derive(Clone)]
struct Settings {
    trip: Trip,
    open_for: Duration,
    probes: u32,
    failure_if: Option<Classifier>,
}

#[derive(Debug, Clone, Copy)]
enum Trip {
    Consecutive(u32),
    Ratio { ratio: f64, calls: usize },
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("trip", &self.trip)
            .field("open_for", &self.open_for)
            .field("probes", &self.probes)
            .finish_non_exhaustive()
    }
}

struct Circuit {
    settings: Settings,
    state: Mutex<State>,
    /// Wakes those that wait to be let through.
    changed: Notify,
}

struct State {
    phase: Phase,
    /// Rises with each change of phase: calls that began in an earlier one say nothing of this.
    generation: u64,
    /// While closed.
    recent: Recent,
}

enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { running: u32, succeeded: u32 },
}

/// The last results while the circuit is closed.
#[derive(Default)]
struct Recent {
    failures_in_a_row: u32,
    /// Whether each of the last calls failed; for [`Trip::Ratio`].
    calls: VecDeque<bool>,
    failures: usize,
}

impl Recent {
    /// Notes a result; says whether the circuit is to open.
    fn note(&mut self, failed: bool, trip: Trip) -> bool {
        match trip {
            Trip::Consecutive(limit) => {
                self.failures_in_a_row = if failed {
                    self.failures_in_a_row + 1
                } else {
                    0
                };
                self.failures_in_a_row >= limit
            }
            Trip::Ratio { ratio, calls } => {
                if self.calls.len() == calls {
                    self.failures -= usize::from(self.calls.pop_front() == Some(true));
                }
                self.calls.push_back(failed);
                self.failures += usize::from(failed);
                self.calls.len() == calls && self.failures as f64 >= ratio * calls as f64
            }
        }
    }
}

/// What a call says of the dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Good,
    Bad,
    None,
}

impl Circuit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit to call the handler; or until when there is none, where that is known.
    fn admit(&self) -> Result<Permit<'_>, Option<Instant>> {
        let mut state = self.lock();
        match &mut state.phase {
            Phase::Closed => {}
            Phase::Open { until } if Instant::now() < *until => return Err(Some(*until)),
            Phase::Open { .. } => state.change(Phase::HalfOpen {
                running: 1,
                succeeded: 0,
            }),
            Phase::HalfOpen { running, succeeded } => {
                if *running + *succeeded >= self.settings.probes {
                    return Err(None);
                }
                *running += 1;
            }
        }
        Ok(Permit {
            circuit: self,
            generation: state.generation,
            sign: Sign::Bad,
        })
    }

    async fn admitted(&self) -> Permit<'_> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.admit() {
                Ok(permit) => return permit,
                Err(None) => changed.await,
                Err(Some(until)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn note(&self, generation: u64, sign: Sign) {
        let mut state = self.lock();
        if state.generation != generation {
            return;
        }
        let State { phase, recent, .. } = &mut *state;
        let trips = match phase {
            Phase::Closed => match sign {
                Sign::None => false,
                Sign::Good | Sign::Bad => recent.note(sign == Sign::Bad, self.settings.trip),
            },
            Phase::HalfOpen { running, succeeded } => {
                *running -= 1;
                *succeeded += u32::from(sign == Sign::Good);
                let closes = *succeeded >= self.settings.probes;
                if sign == Sign::None {
                    self.changed.notify_waiters();
                }
                if closes {
                    tracing::info!("the circuit is closed again");
                    state.change(Phase::Closed);
                    self.changed.notify_waiters();
                }
                sign == Sign::Bad
            }
            Phase::Open { .. } => false,
        };
        if trips {
            let open_for = self.settings.open_for;
            tracing::warn!(
                ?open_for,
                "too many failures: the circuit is open, deliveries wait"
            );
            let now = Instant::now();
            // As good as for ever, and still a time.
            let until = now
                .checked_add(open_for)
                .unwrap_or(now + Duration::from_secs(365 * 24 * 60 * 60));
            state.change(Phase::Open { until });
            self.changed.notify_waiters();
        }
    }

    fn sign(&self, results: &[HandlerResult]) -> Sign {
        let mut sign = Sign::None;
        for result in results {
            match result {
                Ok(Outcome::Ack | Outcome::DeadLetter { .. }) => sign = Sign::Good,
                Ok(_) => {}
                Err(error) => {
                    let failed = match &self.settings.failure_if {
                        Some(failure_if) => failure_if(error),
                        None => !error.is_unrecoverable(),
                    };
                    if failed {
                        return Sign::Bad;
                    }
                }
            }
        }
        sign
    }
}

impl State {
    fn change(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.recent = Recent::default();
    }
}

/// The right to call the handler once. Dropped, it notes its sign.
struct Permit<'a> {
    circuit: &'a Circuit,
    generation: u64,
    sign: Sign,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.circuit.note(self.generation, self.sign);
    }
}

impl<H> Layer<H> for CircuitBreaker {
    type Service = CircuitBreakerService<H>;

    fn layer(&self, next: H) -> Self::Service {
        CircuitBreakerService {
            next,
            breaker: self.clone(),
        }
    }
}

/// A handler within [`CircuitBreaker`].
#[derive(Debug, Clone)]
pub struct CircuitBreakerService<H> {
    next: H,
    breaker: CircuitBreaker,
}

impl<I: Input, H: Handler<I>> Handler<I> for CircuitBreakerService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let circuit = &*self.breaker.circuit;
        let mut permit = match circuit.admit() {
            Ok(permit) => permit,
            Err(_) => match wait::unless_over(input, circuit.admitted()).await {
                Some(permit) => permit,
                None => return wait::released(input),
            },
        };
        let mut output = self.next.handle(input).await;
        permit.sign = circuit.sign(I::results(&mut output));
        output
    }
}
