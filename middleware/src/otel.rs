//! OpenTelemetry: traces that go through streams. With the feature `opentelemetry`.
//!
//! Set a propagator and a tracer provider once, before the first message comes; W3C's headers are
//! `opentelemetry_sdk::propagation::TraceContextPropagator`:
//!
//! ```
//! use opentelemetry::global;
//! use opentelemetry_sdk::propagation::TraceContextPropagator;
//!
//! global::set_text_map_propagator(TraceContextPropagator::new());
//! // global::set_tracer_provider(..) with your exporter
//! ```
//!
//! # Behavior
//! - [`TraceContext`] takes the trace from the message's headers (`traceparent`, `tracestate`), starts
//!   a span `process <stream>` of kind consumer in it, runs the handler within, and gives what the
//!   handler publishes through [`Context::publisher`](streams_core::Context::publisher) the headers
//!   of that span. An error sets the span's status.
//! - In a batch, one span is linked to the traces of all its messages.
//! - [`TracedWriter`] gives every message written the headers of the trace it is written in. It is for
//!   what starts a trace: an HTTP request that publishes an event.
//! - A message that has a `traceparent` already keeps it.
//! - `tracing` spans without a parent become children of the span here where the subscriber has the
//!   layer of `tracing-opentelemetry`.
//!
//! # Where it belongs
//! [`TraceContext`] outermost. [`TracedWriter`] around the driver's writer.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{
    FutureExt, Link, SpanContext, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{Context as TelemetryContext, KeyValue};
use streams_core::{
    Capabilities, Context, Handler, Headers, Input, Layer, Message, MessageId, Result, Scheduled,
    StreamName, WriteError, Writer, async_trait,
};

/// The layer. See the [module](self).
///
/// ```
/// use streams_core::{Layer, Outcome, message_fn};
/// use streams_middleware::TraceContext;
///
/// let handler = TraceContext::new().layer(message_fn(|_, _| async { Outcome::Ack }));
/// # fn is_handler(_: impl streams_core::Handler) {} is_handler(handler);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceContext(());

impl TraceContext {
    /// On the global propagator and tracer provider.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<H> Layer<H> for TraceContext {
    type Service = TraceContextService<H>;

    fn layer(&self, next: H) -> Self::Service {
        TraceContextService {
            next,
            tracer: OnceLock::new(),
        }
    }
}

/// A handler within [`TraceContext`].
#[derive(Debug)]
pub struct TraceContextService<H> {
    next: H,
    tracer: OnceLock<BoxedTracer>,
}

impl<H> TraceContextService<H> {
    fn start(&self, items: &[Context]) -> TelemetryContext {
        let Some(first) = items.first() else {
            return TelemetryContext::current();
        };
        let tracer = self
            .tracer
            .get_or_init(|| global::tracer(env!("CARGO_PKG_NAME")));
        let text = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let mut attributes = vec![
            KeyValue::new("messaging.system", first.driver()),
            KeyValue::new("messaging.operation.type", "process"),
            text("messaging.destination.name", first.stream().as_str()),
        ];
        if let Some(group) = first.group() {
            attributes.push(text("messaging.consumer.group.name", group));
        }
        let mut parent = TelemetryContext::current();
        let mut links = Vec::new();
        if let [one] = items {
            parent = extract(one.headers());
            attributes.push(text("messaging.message.id", one.message().id().as_str()));
        } else {
            let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new("messaging.batch.message_count", count));
            let traces = items
                .iter()
                .map(|item| extract(item.headers()).span().span_context().clone());
            links.extend(traces.filter(SpanContext::is_valid).map(Link::with_context));
        }
        let span = tracer
            .span_builder(format!("process {}", first.stream()))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes)
            .with_links(links)
            .start_with_context(tracer, &parent);
        parent.with_span(span)
    }
}

impl<I: Input, H: Handler<I>> Handler<I> for TraceContextService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let trace = self.start(input.items());
        let headers = inject(&trace);
        let input = input.map_contexts(|context| context.with_publish_headers(&headers));
        let mut output = self.next.handle(&input).with_context(trace.clone()).await;
        let failed = I::results(&mut output)
            .iter()
            .find_map(|result| result.as_ref().err());
        if let Some(error) = failed {
            trace.span().set_status(Status::error(error.to_string()));
        }
        trace.span().end();
        output
    }
}

/// A writer whose messages carry the trace they are written in. See the [module](self).
///
/// ```
/// use std::sync::Arc;
/// use streams_core::{NoopWriter, Writer};
/// use streams_middleware::TracedWriter;
///
/// let writer = TracedWriter::new(Arc::new(NoopWriter::new()));
/// # let _: Arc<dyn Writer> = Arc::new(writer);
/// ```
#[derive(Clone)]
pub struct TracedWriter {
    writer: Arc<dyn Writer>,
}

impl TracedWriter {
    /// Around a writer.
    #[must_use]
    pub fn new(writer: Arc<dyn Writer>) -> Self {
        Self { writer }
    }
}

impl fmt::Debug for TracedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TracedWriter")
            .field("driver", &self.writer.capabilities().driver)
            .finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Writer for TracedWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        match traced(batch) {
            Some(batch) => self.writer.write(&batch).await,
            None => self.writer.write(batch).await,
        }
    }

    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        match traced(batch) {
            Some(batch) => self.writer.try_write(&batch),
            None => self.writer.try_write(batch),
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        match traced(batch) {
            Some(batch) => self.writer.write_at(&batch, due).await,
            None => self.writer.write_at(batch, due).await,
        }
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        self.writer.cancel(stream, id).await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        self.writer.scheduled(stream, limit).await
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        match traced(batch) {
            Some(batch) => self.writer.write_in_transaction(&batch).await,
            None => self.writer.write_in_transaction(batch).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.writer.capabilities()
    }
}

/// The batch with the current trace in its headers; `None` outside of a trace.
fn traced(batch: &[Message]) -> Option<Vec<Message>> {
    let trace = TelemetryContext::map_current(inject);
    let (name, _) = trace.iter().next()?;
    let add = |message: &Message| {
        if message.headers().get(name).is_some() {
            return message.clone();
        }
        let mut headers = message.headers().clone();
        for (name, value) in trace.shared() {
            headers.insert(name.clone(), value.clone());
        }
        // Its parts were a message's already, so it is one again.
        message
            .to_builder()
            .headers(headers)
            .build_received()
            .unwrap_or_else(|_| message.clone())
    };
    Some(batch.iter().map(add).collect())
}

fn extract(headers: &Headers) -> TelemetryContext {
    global::get_text_map_propagator(|propagator| propagator.extract(&InHeaders(headers)))
}

fn inject(trace: &TelemetryContext) -> Headers {
    let mut headers = IntoHeaders(Headers::new());
    global::get_text_map_propagator(|propagator| propagator.inject_context(trace, &mut headers));
    headers.0
}

struct InHeaders<'a>(&'a Headers);

impl Extractor for InHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get_str(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

struct IntoHeaders(Headers);

impl Injector for IntoHeaders {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing, and some backends refuse empty headers.
        if !value.is_empty() {
            self.0.insert(key, value);
        }
    }
}
