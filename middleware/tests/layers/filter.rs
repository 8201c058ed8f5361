use std::sync::{Arc, Mutex};

#[cfg(feature = "regex")]
use streams_core::ErrorKind;
use streams_core::{
    Batch, BatchOutcome, Context, Handler, Layer, Message, Outcome, batch_fn, message_fn,
};
use streams_middleware::Filter;

fn of(region: &str) -> Context {
    let message = Message::builder("orders")
        .data("x")
        .header("region", region);
    Context::for_test(message.build().unwrap())
}

#[tokio::test]
async fn what_is_not_wanted_is_acknowledged_and_not_handled() {
    let handler = message_fn(|_, _| async { Outcome::dead_letter("it") });
    let handler = Filter::header("region", "eu").layer(handler);
    assert_eq!(
        handler.handle(&of("eu")).await.unwrap(),
        Outcome::dead_letter("it")
    );
    for other in [
        of("eu-west"),
        of(""),
        Context::for_test(crate::support::message("x")),
    ] {
        assert_eq!(handler.handle(&other).await.unwrap(), Outcome::Ack);
    }
}

#[tokio::test]
async fn of_a_batch_only_what_is_wanted_is_handled() {
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let sizes = seen.clone();
    let handler = Filter::new(|message| message.headers().get_str("region") == Some("eu"));
    let handler = handler.layer(batch_fn(move |batch: Batch| {
        sizes.lock().unwrap().push(batch.len());
        let all = batch.iter().map(|_| Ok(Outcome::dead_letter("it")));
        let all: BatchOutcome = all.collect();
        async move { all }
    }));
    let mixed = Batch::for_test([of("us"), of("eu"), of("us"), of("eu")]);
    let results = handler.handle(&mixed).await.into_results();
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let (yes, no) = (Outcome::dead_letter("it"), Outcome::Ack);
    assert_eq!(results, [no.clone(), yes.clone(), no, yes]);
    // None of these: the handler is not called.
    handler.handle(&Batch::for_test([of("us")])).await;
    assert_eq!(*seen.lock().unwrap(), [2]);
}

#[cfg(feature = "regex")]
#[tokio::test]
async fn a_pattern_is_looked_for_and_a_bad_one_is_an_error() {
    let handler = message_fn(|_, _| async { Outcome::dead_letter("it") });
    let handler = Filter::header_matches("region", "^eu-(west|north)$")
        .unwrap()
        .layer(handler);
    assert_eq!(
        handler.handle(&of("eu-west")).await.unwrap(),
        Outcome::dead_letter("it")
    );
    assert_eq!(
        handler.handle(&of("eu-west-1")).await.unwrap(),
        Outcome::Ack
    );
    let error = Filter::header_matches("region", "(").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}
