use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streams_core::dead_letter::{headers, redrive};
use streams_core::{
    Backoff, Context, Error, ErrorKind, Handler, HandlerError, Layer, Message, Outcome,
};
use streams_middleware::DeadLetters;
use tracing::level_filters::LevelFilter;

use crate::support::{Kept, Log, batch, batched, delivery, poison, single, text, unavailable};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_is_given_up_is_written_with_its_story_and_acknowledged() {
    let writer = Kept::new();
    let handler = DeadLetters::new(writer.clone()).layer(single(|data| match data {
        "exhausted" => Err(HandlerError::new(unavailable()).exhausted()),
        "asked" => Ok(Outcome::dead_letter("no such tenant")),
        _ => Err(poison().into()),
    }));
    let cases = [
        ("exhausted", "down for a moment"),
        ("asked", "no such tenant"),
        ("poison", "not JSON"),
    ];
    for (data, reason) in cases {
        let message = crate::support::message(data);
        let context = Context::for_test(message.clone()).with_attempt(3);
        assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
        let copy = writer.messages().pop().unwrap();
        assert_eq!(copy.stream(), &"orders.dlq");
        assert_eq!(copy.headers().get_str(headers::REASON), Some(reason));
        assert_eq!(copy.headers().get_str(headers::ATTEMPTS), Some("3"));
        let back = redrive(&copy).unwrap();
        assert_eq!(back.headers().len(), message.headers().len() + 1);
        assert!(back.headers().get(headers::REDRIVEN).is_some());
        let back = back.to_builder().headers(message.headers().clone());
        assert_eq!(back.build().unwrap(), message);
    }
}

#[tokio::test]
async fn all_else_passes_untouched() {
    let writer = Kept::new();
    let handler = DeadLetters::new(writer.clone()).layer(single(|data| match data {
        "down" => Err(unavailable().into()),
        "again" => Ok(Outcome::retry_after(SECOND)),
        "release" => Ok(Outcome::Release),
        _ => Ok(Outcome::Ack),
    }));
    let handle = async |data| {
        handler
            .handle(&Context::for_test(crate::support::message(data)))
            .await
    };
    let error = handle("down").await.unwrap_err();
    assert!(
        !error.is_exhausted(),
        "nobody has given it up: the runner retries it"
    );
    assert_eq!(handle("again").await.unwrap(), Outcome::retry_after(SECOND));
    assert_eq!(handle("release").await.unwrap(), Outcome::Release);
    assert_eq!(handle("fine").await.unwrap(), Outcome::Ack);
    assert_eq!(writer.calls.get(), 0);
}

#[tokio::test]
async fn another_stream_can_be_chosen() {
    let writer = Kept::new();
    let layer = DeadLetters::new(writer.clone())
        .to_stream("morgue")
        .unwrap();
    let handler = layer.layer(single(|_| Err(poison().into())));
    assert_eq!(handler.handle(&delivery()).await.unwrap(), Outcome::Ack);
    assert_eq!(writer.messages()[0].stream(), &"morgue");

    // What comes from there has nowhere further to go.
    let from_there = Context::for_test(Message::builder("morgue").data("x").build().unwrap());
    assert!(
        handler
            .handle(&from_there)
            .await
            .unwrap_err()
            .is_unrecoverable()
    );
    assert_eq!(writer.calls.get(), 1);
    assert!(DeadLetters::new(writer).to_stream("white space").is_err());
}

#[tokio::test]
async fn dead_letters_have_no_dead_letters() {
    let writer = Kept::new();
    let handler = DeadLetters::new(writer.clone()).layer(single(|_| Err(poison().into())));
    let dead = Context::for_test(Message::builder("orders.dlq").data("x").build().unwrap());
    assert!(handler.handle(&dead).await.unwrap_err().is_unrecoverable());
    assert_eq!(writer.calls.get(), 0);
}

#[tokio::test]
async fn while_the_writer_is_down_nothing_is_acknowledged() {
    let log = Log::capture(LevelFilter::INFO);
    let up = Arc::new(AtomicBool::new(false));
    let seen = up.clone();
    let writer = Kept::failing(move |_, _| (!seen.load(Ordering::SeqCst)).then(unavailable));
    let handler = DeadLetters::new(writer.clone())
        .backoff(Backoff::new(SECOND, 4 * SECOND).jitter(false))
        .unwrap()
        .layer(single(|_| Err(poison().into())));
    let context = delivery();
    for (attempt, seconds) in [(1, 1), (2, 2), (9, 4)] {
        let outcome = handler
            .handle(&context.clone().with_attempt(attempt))
            .await
            .unwrap();
        assert_eq!(outcome, Outcome::retry_after(seconds * SECOND));
    }
    let errors = log.events("dead_letter");
    assert!(
        errors
            .iter()
            .all(|event| event.level == tracing::Level::ERROR),
        "{errors:?}"
    );
    assert_eq!(errors.len(), 3);

    up.store(true, Ordering::SeqCst);
    assert_eq!(
        handler.handle(&context.with_attempt(10)).await.unwrap(),
        Outcome::Ack
    );
    assert_eq!(writer.texts(), ["x"]);
}

#[tokio::test]
async fn a_batch_is_one_write_decided_item_by_item() {
    let writer = Kept::failing(|_, data| (data == "refused").then(unavailable));
    let handler = DeadLetters::new(writer.clone()).layer(batched(|data| match data {
        "fine" => Ok(Outcome::Ack),
        "down" => Err(unavailable().into()),
        _ => Err(poison().into()),
    }));
    let batch = batch(&["fine", "poison 1", "refused", "down", "poison 2"]);
    let results = handler.handle(&batch).await.into_results();
    assert_eq!(results[0].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(results[1].as_ref().unwrap(), &Outcome::Ack);
    assert!(
        matches!(results[2], Ok(Outcome::Retry { after: Some(_) })),
        "{:?}",
        results[2]
    );
    assert!(!results[3].as_ref().unwrap_err().is_exhausted());
    assert_eq!(results[4].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(writer.calls.get(), 1);
    let written = writer.messages();
    assert_eq!(
        written.iter().map(text).collect::<Vec<_>>(),
        ["poison 1", "poison 2"]
    );
    assert!(written.iter().all(|copy| *copy.stream() == "orders.dlq"));
}

#[tokio::test]
async fn a_name_too_long_for_its_dead_letters_is_never_dropped() {
    let writer = Kept::new();
    let handler = DeadLetters::new(writer.clone()).layer(single(|_| Err(poison().into())));
    let long = Message::builder("s".repeat(512)).data("x").build().unwrap();
    let outcome = handler.handle(&Context::for_test(long)).await.unwrap();
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(writer.calls.get(), 0);
}

#[test]
fn settings_are_checked() {
    let hot = DeadLetters::new(Kept::new()).backoff(Backoff::constant(Duration::ZERO));
    assert_eq!(hot.unwrap_err().kind(), ErrorKind::InvalidConfig);
    let _: Error = DeadLetters::new(Kept::new()).to_stream("").unwrap_err();
}
