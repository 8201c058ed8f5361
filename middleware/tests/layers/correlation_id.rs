use streams_core::{Batch, Context, Handler, Layer, Message, Outcome, batch_fn, message_fn};
use streams_middleware::{CorrelationId, correlation_id};
use tracing::level_filters::LevelFilter;

use crate::support::{Log, batch, delivery};

fn with_header(name: &'static str, value: &'static str) -> Context {
    Context::for_test(
        Message::builder("orders")
            .header(name, value)
            .data("x")
            .build()
            .unwrap(),
    )
}

#[tokio::test]
async fn the_span_has_the_header_or_the_messages_id() {
    let log = Log::capture(LevelFilter::INFO);
    let handler = CorrelationId::new().layer(message_fn(|_, _| async {
        assert_eq!(
            tracing::Span::current().metadata().unwrap().name(),
            "handle"
        );
    }));
    let first = delivery();
    assert_eq!(handler.handle(&first).await.unwrap(), Outcome::Ack);
    assert_eq!(
        handler
            .handle(&with_header(correlation_id::HEADER, "abc"))
            .await
            .unwrap(),
        Outcome::Ack
    );
    handler
        .handle(&with_header(correlation_id::HEADER, ""))
        .await
        .unwrap();
    let spans = log.spans();
    assert_eq!(
        spans[0].get("correlation_id"),
        Some(first.message().id().as_str())
    );
    assert_eq!(spans[1].get("correlation_id"), Some("abc"));
    assert_ne!(
        spans[2].get("correlation_id"),
        Some(""),
        "an empty header is none"
    );
}

#[tokio::test]
async fn the_header_can_be_chosen() {
    let log = Log::capture(LevelFilter::INFO);
    let handler = CorrelationId::with_header("x-request-id").unwrap();
    let handler = handler.layer(message_fn(|_, _| async {}));
    handler
        .handle(&with_header("x-request-id", "abc"))
        .await
        .unwrap();
    assert_eq!(log.spans()[0].get("correlation_id"), Some("abc"));
    assert!(CorrelationId::with_header("").is_err());
}

#[tokio::test]
async fn a_batch_has_one_span() {
    let log = Log::capture(LevelFilter::INFO);
    let handler =
        CorrelationId::new().layer(batch_fn(|batch: Batch| async move { batch.ack_all() }));
    let results = handler.handle(&batch(&["a", "b"])).await.into_results();
    assert_eq!(results.len(), 2);
    let spans = log.spans();
    assert_eq!((spans.len(), spans[0].get("messages")), (1, Some("2")));
}
