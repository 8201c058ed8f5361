//! What is not acknowledged comes again.

use std::time::Duration;

use streams_core::SettleAction;
use tokio::time::Instant;

use crate::common::{SECOND, broker, join, messages, numbers, write};

#[tokio::test(start_paused = true)]
async fn what_a_dropped_or_closed_member_held_comes_again_counted() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    for attempt in 1..=3 {
        let deliveries = tap.take(4).await;
        assert_eq!(numbers(&deliveries), [0, 1, 2, 3]);
        assert!(deliveries.iter().all(|d| d.attempt == Some(attempt)));
        if attempt == 2 {
            tap.0.close().await.unwrap();
        }
        drop(tap);
        tap = join(&broker, "s", "g").await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_was_not_acknowledged_comes_again() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..10)).await.unwrap();
    let mut held = tap.take(10).await;
    let rest = held.split_off(5);
    tap.ack(held);
    drop(rest);
    drop(tap);
    let mut tap = join(&broker, "s", "g").await;
    assert_eq!(tap.handle(5).await, [5, 6, 7, 8, 9]);
    assert!(tap.now(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_comes_at_its_time_and_others_flow_meanwhile() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..3)).await.unwrap();
    let first = tap.one().await;
    let began = Instant::now();
    tap.retry(first, 2 * SECOND);
    assert_eq!(tap.handle(2).await, [1, 2]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let again = tap.one().await;
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(again.attempt, Some(2));
    assert_eq!(numbers(&[again]), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_wakes_a_member_that_was_waiting_before_it() {
    let broker = broker();
    let mut asks = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let one = asks.one().await;
    let mut waits = join(&broker, "s", "g").await;
    let waiting = tokio::spawn(async move { waits.one().await.attempt });
    tokio::task::yield_now().await;
    // The member that puts it off never asks again.
    asks.retry(one, SECOND);
    assert_eq!(waiting.await.unwrap(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_retry_comes_though_the_one_who_was_to_wake_for_it_stopped_waiting() {
    let broker = broker();
    let mut asks = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let one = asks.one().await;
    let mut waiting = Vec::new();
    let mut handles = Vec::new();
    for _ in 0..3 {
        let mut tap = join(&broker, "s", "g").await;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        handles.push(Some(stop));
        waiting.push(tokio::spawn(async move {
            let got = tokio::select! {
                one = tap.one() => one.attempt,
                _ = stopped => None,
            };
            // Still a member, but no longer asking.
            (got, tap)
        }));
        tokio::task::yield_now().await;
    }
    asks.retry(one, SECOND);
    tokio::task::yield_now().await;
    // All but one stop waiting, one after the other, whoever it was.
    for stop in [0, 1] {
        handles[stop].take().unwrap().send(()).unwrap();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(waiting.pop().unwrap().await.unwrap().0, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_a_delay_comes_before_newer_messages() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..6)).await.unwrap();
    let mut held = tap.take(3).await;
    let last = held.pop().unwrap();
    tap.all(held, SettleAction::Retry { after: None });
    tap.all(vec![last], SettleAction::Release);
    let again = tap.take(6).await;
    assert_eq!(numbers(&again), [0, 1, 2, 3, 4, 5]);
    let attempts: Vec<_> = again.iter().map(|d| d.attempt.unwrap()).collect();
    assert_eq!(attempts, [2, 2, 1, 1, 1, 1], "a release is not counted");
}

#[tokio::test(start_paused = true)]
async fn a_retry_too_far_away_for_any_clock_does_not_come_at_once() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..2)).await.unwrap();
    let first = tap.one().await;
    tap.retry(first, Duration::MAX);
    assert_eq!(tap.handle(1).await, [1]);
    assert!(
        !tap.comes_within(3650 * 24 * 3600 * SECOND).await,
        "not in ten years"
    );
}

#[tokio::test(start_paused = true)]
async fn many_retries_that_wait_do_not_hold_up_newer_messages() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..3000)).await.unwrap();
    for _ in 0..3000 {
        let one = tap.one().await;
        tap.retry(one, 3600 * SECOND);
    }
    write(&broker, &messages("s", 3000..3010)).await.unwrap();
    let began = Instant::now();
    assert_eq!(tap.handle(10).await, (3000..3010).collect::<Vec<_>>());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(tap.comes_within(3601 * SECOND).await);
    assert_eq!(began.elapsed().as_secs(), 3600);
    assert_eq!(tap.handle(2999).await.len(), 2999);
}

#[tokio::test(start_paused = true)]
async fn a_token_settles_its_own_delivery_and_no_other() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let first = a.one().await;
    let stale = first.token.id();
    let copy = streams_core::AckToken::new(stale.partition, stale.epoch, stale.sequence);
    a.all(vec![first], SettleAction::Release);

    // Redelivered to the same member: the old token is stale.
    let again = a.one().await;
    assert_ne!(again.token.id(), stale);
    assert_eq!(again.token.id().sequence, stale.sequence);
    assert_eq!(a.settle(vec![copy.ack()]).lost, [stale]);
    // Another member's token is not this one's.
    let id = again.token.id();
    let stolen = streams_core::AckToken::new(id.partition, id.epoch, id.sequence);
    assert_eq!(b.settle(vec![stolen.ack()]).lost, [id]);
    // Neither has done anything to it.
    a.ack(vec![again]);
    assert!(a.now(1).is_empty() && b.now(1).is_empty());
    // Nor is anything settled twice.
    let twice = streams_core::AckToken::new(id.partition, id.epoch, id.sequence);
    assert_eq!(a.settle(vec![twice.ack()]).lost, [id]);
}

#[tokio::test(start_paused = true)]
async fn settling_after_closing_is_reported() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let one = tap.one().await;
    let id = one.token.id();
    tap.0.close().await.unwrap();
    assert_eq!(tap.settle(vec![one.ack()]).lost, [id]);
    let mut tap = join(&broker, "s", "g").await;
    assert_eq!(tap.one().await.attempt, Some(2));
}
