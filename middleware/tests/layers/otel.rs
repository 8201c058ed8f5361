use std::sync::{Arc, LazyLock};

use opentelemetry::trace::{
    FutureExt, SpanId, SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider,
};
use opentelemetry::{Context as TelemetryContext, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use streams_core::{
    Batch, Context, Handler, Layer, Message, Outcome, Publisher, Writer, batch_fn, message_fn,
};
use streams_middleware::{TraceContext, TracedWriter};

use crate::support::{Kept, message, unavailable};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

struct Telemetry {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

/// The propagator and the provider are global, so all tests here share them.
static TELEMETRY: LazyLock<Telemetry> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    global::set_tracer_provider(provider.clone());
    global::set_text_map_propagator(TraceContextPropagator::new());
    Telemetry { provider, exporter }
});

impl Telemetry {
    fn span(&self, stream: &str) -> SpanData {
        let name = format!("process {stream}");
        self.exporter
            .get_finished_spans()
            .unwrap()
            .into_iter()
            .find(|span| span.name == name)
            .unwrap()
    }
}

fn traced(stream: &'static str, trace: &str) -> Context {
    let message = Message::builder(stream)
        .header("traceparent", format!("00-{trace}-{PARENT}-01"))
        .header("tracestate", "vendor=1")
        .data("x");
    Context::for_test(message.build().unwrap())
}

#[tokio::test]
async fn the_handler_runs_in_a_span_of_the_messages_trace() {
    let telemetry = &*TELEMETRY;
    let handler = TraceContext::new().layer(message_fn(|_, _| async {
        let trace = TelemetryContext::current().span().span_context().clone();
        Outcome::dead_letter(format!(
            "{} {}",
            trace.trace_id(),
            trace.trace_state().header()
        ))
    }));
    let outcome = handler.handle(&traced("otel.single", TRACE)).await.unwrap();
    assert_eq!(outcome, Outcome::dead_letter(format!("{TRACE} vendor=1")));

    let span = telemetry.span("otel.single");
    assert_eq!(
        span.span_context.trace_id(),
        TraceId::from_hex(TRACE).unwrap()
    );
    assert_eq!(span.parent_span_id, SpanId::from_hex(PARENT).unwrap());
    assert_eq!(span.span_kind, SpanKind::Consumer);
    let group = span
        .attributes
        .iter()
        .find(|a| a.key.as_str() == "messaging.consumer.group.name");
    assert_eq!(group.unwrap().value.as_str(), "test");
}

#[tokio::test]
async fn an_error_marks_the_span_and_a_message_without_a_trace_starts_one() {
    let telemetry = &*TELEMETRY;
    let handler =
        TraceContext::new().layer(message_fn(|_, _| async { Err::<(), _>(unavailable()) }));
    let alone = Message::builder("otel.error").data("x").build().unwrap();
    assert!(handler.handle(&Context::for_test(alone)).await.is_err());
    let span = telemetry.span("otel.error");
    assert_eq!(span.status, Status::error("down for a moment"));
    assert_eq!(span.parent_span_id, SpanId::INVALID);
}

#[tokio::test]
async fn a_batch_is_one_span_linked_to_all_its_traces() {
    let telemetry = &*TELEMETRY;
    let handler =
        TraceContext::new().layer(batch_fn(|batch: Batch| async move { batch.ack_all() }));
    let other = TRACE.replace('0', "1");
    let batch = Batch::for_test([
        traced("otel.batch", TRACE),
        Context::for_test(Message::builder("otel.batch").data("x").build().unwrap()),
        traced("otel.batch", &other),
    ]);
    assert_eq!(handler.handle(&batch).await.into_results().len(), 3);
    let linked: Vec<_> = telemetry
        .span("otel.batch")
        .links
        .iter()
        .map(|link| link.span_context.trace_id().to_string())
        .collect();
    assert_eq!(linked, [TRACE, &other]);
}

#[tokio::test]
async fn what_is_written_carries_the_trace_it_is_written_in() {
    let telemetry = &*TELEMETRY;
    let kept = Kept::new();
    let writer = Arc::new(TracedWriter::new(kept.clone()));
    let span = telemetry.provider.tracer("test").start("request");
    let trace = TelemetryContext::new().with_span(span);
    let id = trace.span().span_context().trace_id().to_string();

    let publisher = Publisher::builder(writer.clone()).build();
    let own = Message::builder("s")
        .header("traceparent", "mine")
        .data("own")
        .build()
        .unwrap();
    publisher
        .write(&[message("in"), own])
        .with_context(trace)
        .await
        .unwrap();
    writer.write(&[message("out")]).await.unwrap();

    let headers = |index: usize| kept.messages()[index].headers().clone();
    assert!(headers(0).get_str("traceparent").unwrap().contains(&id));
    assert_eq!(
        headers(0).get_str("secret"),
        Some("hidden"),
        "its own are kept"
    );
    assert_eq!(
        headers(0).get("tracestate"),
        None,
        "an empty one is left out"
    );
    assert_eq!(headers(1).get_str("traceparent"), Some("mine"));
    assert_eq!(
        headers(2).get("traceparent"),
        None,
        "outside of a trace there is none"
    );
}
