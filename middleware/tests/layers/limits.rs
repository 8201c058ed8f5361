//! The limits of concurrency and rate.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Batch, Context, ErrorKind, Handler, Layer, Outcome, batch_fn, message_fn};
use streams_middleware::{ConcurrencyLimit, RateLimit};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{Count, batch, delivery};

const SECOND: Duration = Duration::from_secs(1);

/// A handler that counts how many of its kind run at once.
fn crowd(running: &Count, most: &Arc<std::sync::Mutex<usize>>) -> impl Handler {
    let (running, most) = (running.clone(), most.clone());
    message_fn(move |_, _| {
        let (running, most) = (running.clone(), most.clone());
        async move {
            let now = running.add();
            {
                let mut most = most.lock().unwrap();
                *most = (*most).max(now);
            }
            sleep(SECOND).await;
            running.take();
        }
    })
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_run_at_once_over_all_that_share_it() {
    let limit = ConcurrencyLimit::new(3).unwrap();
    let (running, most) = (Count::default(), Arc::default());
    let handlers = [
        Arc::new(limit.layer(crowd(&running, &most))),
        Arc::new(limit.layer(crowd(&running, &most))),
    ];
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..12 {
        let handler = handlers[index % 2].clone();
        tasks.spawn(async move { handler.handle(&delivery()).await.unwrap() });
    }
    assert!(
        tasks
            .join_all()
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Ack)
    );
    assert_eq!(*most.lock().unwrap(), 3);
    assert_eq!(started.elapsed(), 4 * SECOND, "and no fewer");
    assert_eq!(limit.available(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_batch_counts_as_one() {
    let limit = ConcurrencyLimit::new(1).unwrap();
    let seen = limit.clone();
    let handler = limit.layer(batch_fn(move |batch: Batch| {
        assert_eq!(seen.available(), 0);
        async move { batch.ack_all() }
    }));
    let results = handler
        .handle(&batch(&["a", "b", "c"]))
        .await
        .into_results();
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Ok(Outcome::Ack))),
        "{results:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_deadline_comes_while_it_waits_is_given_back() {
    let limit = ConcurrencyLimit::new(1).unwrap();
    let (started, calls) = (Arc::new(Notify::new()), Count::default());
    let (signal, counted) = (started.clone(), calls.clone());
    let handler = Arc::new(limit.layer(message_fn(move |_, _| {
        counted.add();
        let signal = signal.clone();
        async move {
            signal.notify_one();
            sleep(10 * SECOND).await;
        }
    })));
    let first = handler.clone();
    let first = tokio::spawn(async move { first.handle(&delivery()).await.unwrap() });
    started.notified().await;
    let deadline = Instant::now() + SECOND;
    let outcome = handler
        .handle(&delivery().with_deadline(deadline))
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Release);
    assert!(Instant::now() < deadline, "before it counts as a failure");
    assert_eq!(calls.get(), 1);
    assert_eq!(first.await.unwrap(), Outcome::Ack);
}

/// Handles `count` deliveries one after another; says when each was handled.
async fn pace(handler: &impl Handler, count: usize) -> Vec<u128> {
    let start = Instant::now();
    let mut times = Vec::new();
    for _ in 0..count {
        handler.handle(&delivery()).await.unwrap();
        times.push(start.elapsed().as_millis());
    }
    times
}

#[tokio::test(start_paused = true)]
async fn a_burst_passes_and_then_the_rate_holds() {
    let limit = RateLimit::new(10, SECOND).unwrap().burst(3).unwrap();
    let handler = limit.layer(message_fn(|_, _| async {}));
    assert_eq!(pace(&handler, 6).await, [0, 0, 0, 100, 200, 300]);
    sleep(10 * SECOND).await;
    assert_eq!(
        pace(&handler, 5).await,
        [0, 0, 0, 100, 200],
        "a long pause saves up one burst, no more"
    );
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_one_for_all_that_share_it() {
    let limit = RateLimit::new(10, SECOND).unwrap();
    let handlers: Vec<_> = (0..3)
        .map(|_| Arc::new(limit.layer(message_fn(|_, _| async {}))))
        .collect();
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..30 {
        let handler = handlers[index % 3].clone();
        tasks.spawn(async move { handler.handle(&delivery()).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.len(), 30);
    assert_eq!(started.elapsed().as_millis(), 2900);
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_a_token_for_each_message() {
    let limit = RateLimit::new(10, SECOND).unwrap().burst(4).unwrap();
    let handler = limit.layer(batch_fn(|batch: Batch| async move { batch.ack_all() }));
    let started = Instant::now();
    let mut times = Vec::new();
    // The third is larger than the burst: it waits for a full bucket and is paid off after it.
    for data in [&["a", "b"][..], &["a", "b", "c"], &["a"; 8], &["a"]] {
        let results = handler.handle(&batch(data)).await.into_results();
        assert!(
            results
                .iter()
                .all(|result| matches!(result, Ok(Outcome::Ack)))
        );
        times.push(started.elapsed().as_millis());
    }
    assert_eq!(times, [0, 100, 500, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_takes_no_token() {
    let limit = RateLimit::new(1, SECOND).unwrap();
    let handler = limit.layer(message_fn(|_, _| async {}));
    handler.handle(&delivery()).await.unwrap();
    let started = Instant::now();
    let soon = delivery().with_deadline(started + SECOND / 2);
    assert_eq!(handler.handle(&soon).await.unwrap(), Outcome::Release);
    let dropped = Context::clone(&delivery());
    let waiting = handler.handle(&dropped);
    assert!(tokio::time::timeout(SECOND / 4, waiting).await.is_err());
    assert_eq!(handler.handle(&delivery()).await.unwrap(), Outcome::Ack);
    assert_eq!(started.elapsed().as_millis(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_high_rate_is_reached_in_spite_of_coarse_timers() {
    let limit = RateLimit::new(9, Duration::from_millis(1)).unwrap();
    let handler = limit.layer(message_fn(|_, _| async {}));
    let last = *pace(&handler, 9_100).await.last().unwrap();
    assert!((1_000..1_020).contains(&last), "{last}");
}

#[test]
fn settings_are_checked() {
    let errors = [
        ConcurrencyLimit::new(0).unwrap_err(),
        ConcurrencyLimit::new(usize::MAX).unwrap_err(),
        RateLimit::new(0, SECOND).unwrap_err(),
        RateLimit::new(10, Duration::ZERO).unwrap_err(),
        RateLimit::new(10, Duration::from_nanos(9)).unwrap_err(),
        RateLimit::new(10, SECOND).unwrap().burst(0).unwrap_err(),
    ];
    assert!(
        errors
            .iter()
            .all(|error| error.kind() == ErrorKind::InvalidConfig)
    );
}
