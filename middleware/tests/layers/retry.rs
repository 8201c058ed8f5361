use std::time::Duration;

use streams_core::{
    Backoff, Batch, Context, ErrorKind, Handler, HandlerError, Layer, Outcome, message_fn,
};
use streams_middleware::Retry;
use tracing::level_filters::LevelFilter;

use crate::support::{Log, batch, batched, delivery, poison, single, unavailable};

const SECOND: Duration = Duration::from_secs(1);

fn retry(max_attempts: u32) -> Retry {
    Retry::new(Backoff::new(SECOND, 8 * SECOND).jitter(false), max_attempts).unwrap()
}

#[tokio::test]
async fn an_error_becomes_a_retry_with_growing_delay_until_it_is_exhausted() {
    let handler = retry(4).layer(single(|_| Err(unavailable().into())));
    for (attempt, seconds) in [(1, 1), (2, 2), (3, 4)] {
        let outcome = handler
            .handle(&delivery().with_attempt(attempt))
            .await
            .unwrap();
        assert_eq!(outcome, Outcome::retry_after(seconds * SECOND));
    }
    for attempt in [4, 5, 100] {
        let error = handler
            .handle(&delivery().with_attempt(attempt))
            .await
            .unwrap_err();
        assert!(error.is_exhausted());
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "the error itself is kept"
        );
    }
}

#[tokio::test]
async fn jitter_and_the_cap_bound_the_delay() {
    let backoff = Backoff::new(SECOND, 4 * SECOND);
    let handler = Retry::builder()
        .backoff(backoff)
        .without_limit()
        .build()
        .unwrap();
    let handler = handler.layer(single(|_| Err(unavailable().into())));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let outcome = handler
            .handle(&delivery().with_attempt(1000))
            .await
            .unwrap();
        let Outcome::Retry { after: Some(after) } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(after >= 4 * SECOND && after <= 8 * SECOND, "{after:?}");
        seen.insert(after);
    }
    assert!(seen.len() > 1, "jitter spreads");
}

#[tokio::test]
async fn an_errors_own_delay_wins() {
    let handler = retry(4).layer(single(|_| {
        Err(HandlerError::new(unavailable()).retry_after(7 * SECOND))
    }));
    assert_eq!(
        handler.handle(&delivery()).await.unwrap(),
        Outcome::retry_after(7 * SECOND)
    );
}

#[tokio::test]
async fn what_cannot_be_mended_is_not_retried() {
    let handler = retry(4).layer(single(|_| Err(poison().into())));
    let error = handler.handle(&delivery()).await.unwrap_err();
    assert!(error.is_unrecoverable() && !error.is_exhausted());
}

#[tokio::test]
async fn the_classifier_decides() {
    let handler = Retry::builder()
        .retry_if(|error| error.kind() != ErrorKind::Unavailable)
        .build()
        .unwrap()
        .layer(single(|data| match data {
            "unavailable" => Err(unavailable().into()),
            _ => Err(std::io::Error::other("a fluke").into()),
        }));
    let refused = Context::for_test(crate::support::message("unavailable"));
    assert!(handler.handle(&refused).await.unwrap_err().is_exhausted());
    assert!(matches!(
        handler.handle(&delivery()).await,
        Ok(Outcome::Retry { .. })
    ));
}

#[tokio::test]
async fn a_handlers_own_outcome_passes_and_its_open_retry_gets_a_delay() {
    let answers = [
        Outcome::Ack,
        Outcome::Release,
        Outcome::retry_after(9 * SECOND),
        Outcome::dead_letter("why"),
    ];
    for answer in answers {
        let given = answer.clone();
        let handler = retry(1).layer(single(move |_| Ok(given.clone())));
        assert_eq!(
            handler.handle(&delivery().with_attempt(5)).await.unwrap(),
            answer
        );
    }
    let handler = retry(1).layer(single(|_| Ok(Outcome::Retry { after: None })));
    let outcome = handler.handle(&delivery().with_attempt(3)).await.unwrap();
    assert_eq!(
        outcome,
        Outcome::retry_after(4 * SECOND),
        "asking to be called again is no failure"
    );
}

#[tokio::test]
async fn a_batch_is_retried_item_by_item() {
    let handler = retry(4).layer(batched(|data| match data {
        "down" => Err(unavailable().into()),
        "poison" => Err(poison().into()),
        _ => Ok(Outcome::Ack),
    }));
    let batch = Batch::for_test(
        batch(&["fine", "down", "poison", "down"])
            .iter()
            .zip([1, 2, 1, 4])
            .map(|(item, attempt)| item.clone().with_attempt(attempt)),
    );
    let results = handler.handle(&batch).await.into_results();
    assert_eq!(results[0].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(
        results[1].as_ref().unwrap(),
        &Outcome::retry_after(2 * SECOND)
    );
    assert!(results[2].as_ref().unwrap_err().is_unrecoverable());
    assert!(results[3].as_ref().unwrap_err().is_exhausted());
}

#[tokio::test]
async fn a_panic_is_retried_as_an_error() {
    async fn broken() -> Outcome {
        panic!("on purpose")
    }
    let handler = retry(2).layer(message_fn(|_, _| broken()));
    assert_eq!(
        handler.handle(&delivery()).await.unwrap(),
        Outcome::retry_after(SECOND)
    );
    let error = handler
        .handle(&delivery().with_attempt(2))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.is_exhausted()),
        (ErrorKind::Panic, true)
    );
}

#[tokio::test]
async fn a_retry_is_logged_with_its_cause() {
    let log = Log::capture(LevelFilter::INFO);
    let handler = retry(2).layer(single(|_| Err(unavailable().into())));
    let _ = handler.handle(&delivery()).await;
    let events = log.events("retry");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].level, tracing::Level::WARN);
    assert_eq!(events[0].get("error"), Some("down for a moment"));
    assert_eq!(events[0].get("delay"), Some("1s"));
}

#[test]
fn settings_are_checked() {
    for bad in [
        Retry::new(Backoff::default(), 0),
        Retry::new(Backoff::new(Duration::ZERO, SECOND), 3),
        Retry::builder()
            .backoff(Backoff::default().factor(0.5))
            .build(),
    ] {
        assert_eq!(bad.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
