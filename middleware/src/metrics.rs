//! Metrics on the facade crate `metrics`: install any recorder (Prometheus, StatsD, ...) before the
//! first message comes.
//!
//! | name | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `streams_handled_total` | counter | `stream`, `group`, `outcome` | deliveries that a handler is done with |
//! | `streams_handle_seconds` | histogram | `stream`, `group` | duration of one call, of a whole batch for a batch handler |
//! | `streams_in_flight` | gauge | `stream`, `group` | deliveries in the handler right now |
//!
//! `outcome` is `ack`, `retry`, `release`, `dead_letter` (asked for, or an error that is unrecoverable
//! or exhausted), `error` (any other error: it is retried) or `dropped` (stopped before it ended).
//! `group` is empty for a subscription without one.
//!
//! # Behavior
//! Handles to the metrics are looked up once for each subscription, at its first message.
//!
//! # Where it belongs
//! Between [`DeadLetters`](crate::DeadLetters) and [`Retry`](crate::Retry): outside both, what was
//! dead-lettered counts as acknowledged; inside both, every error is a plain `error`.

use std::sync::{Arc, OnceLock};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use streams_core::{Context, Handler, HandlerResult, Input, Layer, Outcome};
use tokio::time::Instant;

/// Name of the counter of handled deliveries.
pub const HANDLED: &str = "streams_handled_total";
/// Name of the histogram of durations.
pub const SECONDS: &str = "streams_handle_seconds";
/// Name of the gauge of deliveries in the handler.
pub const IN_FLIGHT: &str = "streams_in_flight";

/// The layer. See the [module](self).
///
/// ```
/// use streams_core::{Layer, Outcome, message_fn};
/// use streams_middleware::Metrics;
///
/// let handler = Metrics::new().layer(message_fn(|_, _| async { Outcome::Ack }));
/// # fn is_handler(_: impl streams_core::Handler) {} is_handler(handler);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Metrics(());

impl Metrics {
    /// The layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<H> Layer<H> for Metrics {
    type Service = MetricsService<H>;

    fn layer(&self, next: H) -> Self::Service {
        MetricsService {
            next,
            handles: OnceLock::new(),
        }
    }
}

/// A handler within [`Metrics`].
#[derive(Debug)]
pub struct MetricsService<H> {
    next: H,
    handles: OnceLock<Arc<Handles>>,
}

/// Order of [`Handles::outcomes`].
const OUTCOMES: [&str; 6] = ["ack", "retry", "release", "dead_letter", "error", "dropped"];
const DROPPED: usize = 5;

#[derive(Debug)]
struct Handles {
    stream: String,
    group: Option<String>,
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
    in_flight: Gauge,
}

impl Handles {
    fn new(context: &Context) -> Self {
        describe_counter!(
            HANDLED,
            Unit::Count,
            "Deliveries that a handler is done with."
        );
        describe_histogram!(SECONDS, Unit::Seconds, "Duration of one call of a handler.");
        describe_gauge!(
            IN_FLIGHT,
            Unit::Count,
            "Deliveries in the handler right now."
        );
        let stream = context.stream().as_str().to_owned();
        let group = context.group().unwrap_or_default().to_owned();
        let labels = [("stream", stream.clone()), ("group", group)];
        Self {
            outcomes: OUTCOMES.map(|outcome| {
                let [stream, group] = labels.clone();
                counter!(HANDLED, &[stream, group, ("outcome", outcome.to_owned())])
            }),
            seconds: histogram!(SECONDS, &labels),
            in_flight: gauge!(IN_FLIGHT, &labels),
            stream,
            group: context.group().map(str::to_owned),
        }
    }

    fn are_of(&self, context: &Context) -> bool {
        self.stream == context.stream().as_str() && self.group.as_deref() == context.group()
    }
}

impl<H> MetricsService<H> {
    fn handles(&self, context: &Context) -> Arc<Handles> {
        let cached = self.handles.get_or_init(|| Arc::new(Handles::new(context)));
        if cached.are_of(context) {
            cached.clone()
        } else {
            // A handler that several subscriptions share.
            Arc::new(Handles::new(context))
        }
    }
}

fn outcome(result: &HandlerResult) -> usize {
    match result {
        Ok(Outcome::Ack) => 0,
        Ok(Outcome::Release) => 2,
        Ok(Outcome::DeadLetter { .. }) => 3,
        Ok(_) => 1,
        Err(error) if error.is_unrecoverable() || error.is_exhausted() => 3,
        Err(_) => 4,
    }
}

/// Deliveries in the handler; dropped before they ended, they are counted as that.
struct Running {
    handles: Arc<Handles>,
    count: usize,
    started: Instant,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handles.in_flight.decrement(self.count as f64);
        self.handles.seconds.record(self.started.elapsed());
        if !self.ended {
            self.handles.outcomes[DROPPED].increment(self.count as u64);
        }
    }
}

impl<I: Input, H: Handler<I>> Handler<I> for MetricsService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let items = input.items();
        let Some(first) = items.first() else {
            return self.next.handle(input).await;
        };
        let handles = self.handles(first);
        handles.in_flight.increment(items.len() as f64);
        let mut running = Running {
            handles,
            count: items.len(),
            started: Instant::now(),
            ended: false,
        };
        let mut output = self.next.handle(input).await;
        for result in I::results(&mut output) {
            running.handles.outcomes[outcome(result)].increment(1);
        }
        running.ended = true;
        output
    }
}
