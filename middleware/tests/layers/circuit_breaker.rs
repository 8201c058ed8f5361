use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use streams_core::{Batch, Context, ErrorKind, Handler, Layer, Message, Outcome, message_fn};
use streams_middleware::CircuitBreaker;
use streams_middleware::circuit_breaker::{CircuitBreakerBuilder, CircuitState};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Count, batch, batched, delivery, message, poison, single, unavailable};

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> CircuitBreakerBuilder {
    CircuitBreaker::builder()
        .consecutive_failures(3)
        .open_for(10 * SECOND)
}

async fn handle(handler: &impl Handler, data: &'static str) -> streams_core::HandlerResult {
    handler.handle(&Context::for_test(message(data))).await
}

/// Fails on "down", asks for a retry on "again", cannot read "poison".
fn by_data(data: &str) -> streams_core::HandlerResult {
    match data {
        "down" => Err(unavailable().into()),
        "poison" => Err(poison().into()),
        "again" => Ok(Outcome::Retry { after: None }),
        _ => Ok(Outcome::Ack),
    }
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_failures_in_a_row_and_closes_when_a_probe_succeeds() {
    let breaker = builder().build().unwrap();
    let handler = breaker.layer(single(by_data));
    for data in ["down", "down", "fine", "down", "down"] {
        let _ = handle(&handler, data).await;
    }
    assert_eq!(
        breaker.state(),
        CircuitState::Closed,
        "never three in a row"
    );
    assert!(
        handle(&handler, "down").await.is_err(),
        "the error itself passes"
    );
    assert_eq!(breaker.state(), CircuitState::Open);

    let started = Instant::now();
    assert_eq!(
        handle(&handler, "fine").await.unwrap(),
        Outcome::Ack,
        "put off, not lost"
    );
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_opens_it_again() {
    let breaker = builder().build().unwrap();
    let handler = breaker.layer(single(by_data));
    for _ in 0..3 {
        let _ = handle(&handler, "down").await;
    }
    let started = Instant::now();
    assert!(handle(&handler, "down").await.is_err());
    assert_eq!(breaker.state(), CircuitState::Open);
    assert!(handle(&handler, "fine").await.is_ok());
    assert_eq!(started.elapsed(), 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_open_no_handler_is_called_and_half_open_only_the_probes() {
    let breaker = builder().probes(2).build().unwrap();
    let up = Arc::new(AtomicBool::new(false));
    let calls = Count::default();
    let (now_up, counted) = (up.clone(), calls.clone());
    let handler = Arc::new(breaker.layer(message_fn(move |_, _| {
        counted.add();
        let up = now_up.load(Ordering::SeqCst);
        async move {
            sleep(SECOND).await;
            if up { Ok(()) } else { Err(unavailable()) }
        }
    })));
    for _ in 0..3 {
        let _ = handler.handle(&delivery()).await;
    }
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let handler = handler.clone();
        tasks.spawn(async move { handler.handle(&delivery()).await.unwrap() });
    }
    sleep(9 * SECOND).await;
    assert_eq!(calls.get(), 3, "open");
    up.store(true, Ordering::SeqCst);
    sleep(SECOND + SECOND / 2).await;
    assert_eq!(calls.get(), 5, "half-open: two probes");
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    sleep(SECOND).await;
    assert_eq!(calls.get(), 13, "closed: all that waited");
    assert!(
        tasks
            .join_all()
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Ack)
    );
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_ratio_counts_over_the_last_calls() {
    let breaker = builder().failure_ratio(0.5, 4).build().unwrap();
    let handler = breaker.layer(single(by_data));
    for data in ["down", "down", "fine"] {
        let _ = handle(&handler, data).await;
    }
    assert_eq!(
        breaker.state(),
        CircuitState::Closed,
        "too few calls to judge"
    );
    for data in ["fine"] {
        let _ = handle(&handler, data).await;
    }
    assert_eq!(breaker.state(), CircuitState::Open, "2 of 4");

    let breaker = builder().failure_ratio(0.5, 4).build().unwrap();
    let handler = breaker.layer(single(by_data));
    for data in [
        "fine", "fine", "fine", "down", "fine", "fine", "fine", "down", "fine",
    ] {
        let _ = handle(&handler, data).await;
        assert_eq!(breaker.state(), CircuitState::Closed, "never 2 of 4");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_dependency_does_not_count() {
    let breaker = builder().build().unwrap();
    let handler = breaker.layer(single(by_data));
    for _ in 0..10 {
        let _ = handle(&handler, "poison").await;
    }
    assert_eq!(
        breaker.state(),
        CircuitState::Closed,
        "the messages' own fault"
    );
    for data in ["down", "again", "down", "poison", "down"] {
        let _ = handle(&handler, data).await;
    }
    assert_eq!(
        breaker.state(),
        CircuitState::Open,
        "what does not count does not interrupt a row"
    );

    // A probe that says nothing leaves room for another.
    sleep(10 * SECOND).await;
    let _ = handle(&handler, "again").await;
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    let _ = handle(&handler, "fine").await;
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_says_nothing_lets_the_next_one_try_at_once() {
    let breaker = builder().build().unwrap();
    let handler = Arc::new(breaker.layer(message_fn(|message: Message, _| async move {
        sleep(SECOND).await;
        by_data(crate::support::text(&message))
    })));
    for _ in 0..3 {
        let _ = handle(&*handler, "down").await;
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for data in ["again", "fine"] {
        let handler = handler.clone();
        tasks.spawn(async move { handle(&*handler, data).await.unwrap() });
        yield_now().await;
    }
    timeout(60 * SECOND, tasks.join_all())
        .await
        .expect("both end");
    assert_eq!(started.elapsed().as_secs(), 10 + 2);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn failures_are_what_the_classifier_says() {
    let breaker = builder()
        .failure_if(|error| error.kind() == ErrorKind::Codec)
        .build()
        .unwrap();
    let handler = breaker.layer(single(by_data));
    for _ in 0..5 {
        let _ = handle(&handler, "down").await;
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    for _ in 0..3 {
        let _ = handle(&handler, "poison").await;
    }
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_deadline_comes_first_is_given_back_uncounted() {
    let breaker = builder().build().unwrap();
    let handler = breaker.layer(single(by_data));
    for _ in 0..3 {
        let _ = handle(&handler, "down").await;
    }
    let started = Instant::now();
    let soon = delivery().with_deadline(started + SECOND);
    assert_eq!(handler.handle(&soon).await.unwrap(), Outcome::Release);
    assert!(started.elapsed() < SECOND && started.elapsed() > SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_counts_as_failed_and_frees_its_place() {
    let breaker = builder().build().unwrap();
    let hanging = breaker.layer(message_fn(|_, _| std::future::pending::<()>()));
    for _ in 0..3 {
        assert!(timeout(SECOND, hanging.handle(&delivery())).await.is_err());
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    sleep(10 * SECOND).await;
    assert!(
        timeout(SECOND, hanging.handle(&delivery())).await.is_err(),
        "the probe hangs too"
    );
    assert_eq!(breaker.state(), CircuitState::Open);
    let handler = breaker.layer(single(by_data));
    assert_eq!(handle(&handler, "fine").await.unwrap(), Outcome::Ack);
}

#[tokio::test(start_paused = true)]
async fn calls_from_before_it_opened_do_not_decide_what_comes_after() {
    let breaker = builder().build().unwrap();
    let slow = Arc::new(breaker.layer(message_fn(|_, _| async {
        sleep(12 * SECOND).await;
        Err::<(), _>(unavailable())
    })));
    let late = tokio::spawn(async move { slow.handle(&delivery()).await.is_err() });
    yield_now().await;
    let handler = breaker.layer(single(by_data));
    for _ in 0..3 {
        let _ = handle(&handler, "down").await;
    }
    assert_eq!(handle(&handler, "fine").await.unwrap(), Outcome::Ack);
    assert_eq!(breaker.state(), CircuitState::Closed);
    for _ in 0..2 {
        let _ = handle(&handler, "down").await;
    }
    assert!(late.await.unwrap());
    assert_eq!(
        breaker.state(),
        CircuitState::Closed,
        "the late failure is of another time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_call() {
    let breaker = builder().build().unwrap();
    let handler = breaker.layer(batched(by_data));
    let handle = async |data: &[&'static str]| {
        let batch: Batch = batch(data);
        handler.handle(&batch).await.into_results()
    };
    for _ in 0..2 {
        let results = handle(&["fine", "down", "down", "down"]).await;
        assert!(
            results[0].is_ok() && results[1].is_err(),
            "results pass untouched"
        );
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    handle(&["fine", "down"]).await;
    assert_eq!(breaker.state(), CircuitState::Open);
    let started = Instant::now();
    assert_eq!(handle(&["fine", "poison"]).await.len(), 2);
    assert_eq!(
        (started.elapsed(), breaker.state()),
        (10 * SECOND, CircuitState::Closed)
    );
}

#[test]
fn settings_are_checked() {
    for bad in [
        builder().consecutive_failures(0),
        builder().failure_ratio(0.0, 10),
        builder().failure_ratio(1.1, 10),
        builder().failure_ratio(f64::NAN, 10),
        builder().failure_ratio(0.5, 0),
        builder().open_for(Duration::ZERO),
        builder().probes(0),
    ] {
        assert_eq!(bad.build().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
