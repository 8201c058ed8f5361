//! Leases.

use std::time::Duration;

use streams_chanbuf::{Chanbuf, ChanbufOptions};
use streams_core::{Driver, ErrorKind};
use tokio::time::{Instant, timeout};

use crate::common::{
    PATIENCE, SECOND, broker, builder, join, keyed, messages, numbers, open, options, write,
};

fn leasing() -> Chanbuf {
    builder().lease(10 * SECOND).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_passes_the_message_on_and_the_late_settle_is_reported() {
    let broker = leasing();
    assert!(broker.reader().capabilities().leases);
    let mut late = join(&broker, "s", "g").await;
    let mut prompt = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let began = Instant::now();
    let first = late.now(1).remove(0);
    assert_eq!(first.lease, Some(began + 10 * SECOND));
    let again = prompt.one().await;
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(again.attempt, Some(2));
    let id = first.token.id();
    let extended = late.0.extend(&[id], SECOND).await.unwrap();
    assert_eq!(extended.lost, [id]);
    assert_eq!(late.settle(vec![first.ack()]).lost, [id]);
    prompt.ack(vec![again]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_waiting_already_gets_what_another_let_expire() {
    let broker = leasing();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut tap = join(&broker, "s", "g").await;
        waiting.push(tokio::spawn(async move { (tap.one().await.attempt, tap) }));
    }
    tokio::task::yield_now().await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let began = Instant::now();
    let (mut attempts, mut members) = (Vec::new(), Vec::new());
    for one in waiting {
        // Both stay members; neither settles nor asks again.
        let (attempt, tap) = timeout(PATIENCE, one).await.expect("in time").unwrap();
        attempts.push(attempt);
        members.push(tap);
    }
    attempts.sort();
    assert_eq!(attempts, [Some(1), Some(2)]);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_late_settle_is_reported_though_nobody_has_noticed_the_expiry() {
    let broker = leasing();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..2)).await.unwrap();
    let mut held = tap.take(2).await;
    let (second, first) = (held.pop().unwrap(), held.pop().unwrap());
    tokio::time::sleep(9 * SECOND).await;
    tap.ack(vec![first]);
    tokio::time::sleep(2 * SECOND).await;
    let id = second.token.id();
    assert_eq!(tap.settle(vec![second.ack()]).lost, [id]);
    assert_eq!(tap.one().await.attempt, Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_extended_lease_lasts_longer() {
    let broker = leasing();
    let mut tap = join(&broker, "s", "g").await;
    let mut other = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let one = tap.now(1).remove(0);
    for _ in 0..5 {
        assert!(timeout(8 * SECOND, other.one()).await.is_err());
        let report = tap.0.extend(&[one.token.id()], 10 * SECOND).await.unwrap();
        assert_eq!(report.lost, []);
    }
    // Shorter counts as well: it is until then, from now.
    tap.0.extend(&[one.token.id()], SECOND).await.unwrap();
    let began = Instant::now();
    assert_eq!(other.one().await.attempt, Some(2));
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_made_shorter_is_noticed_by_who_waits_already() {
    let broker = leasing();
    let mut tap = join(&broker, "s", "g").await;
    let mut other = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let one = tap.now(1).remove(0);
    let waits = tokio::spawn(async move { other.one().await.attempt });
    tokio::task::yield_now().await;
    let began = Instant::now();
    tap.0.extend(&[one.token.id()], SECOND).await.unwrap();
    assert_eq!(waits.await.unwrap(), Some(2));
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_lease_ran_out_comes_again_in_order() {
    let broker = leasing();
    let mut late = join(&broker, "s", "g").await;
    let mut other = join(&broker, "s", "g").await;
    let batch: Vec<_> = (0..4).map(|n| keyed("s", "x", n)).collect();
    write(&broker, &batch).await.unwrap();
    let held = late.now(2);
    assert_eq!(numbers(&held), [0, 1]);
    assert_eq!(other.handle(4).await, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_longest_lease_is_as_good_as_any() {
    let broker = builder().lease(Duration::MAX).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..2)).await.unwrap();
    let held = tap.take(2).await;
    tap.0
        .extend(&[held[0].token.id()], Duration::MAX)
        .await
        .unwrap();
    tap.ack(held);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_may_have_a_lease_of_its_own() {
    let broker = leasing();
    let mut own = options("s").group("g").unwrap();
    own.driver.insert(ChanbufOptions {
        lease: Some(3 * SECOND),
    });
    let mut named = options("s").group("h").unwrap();
    named.driver.set("lease_ms", "4000");
    let (mut own, mut named) = (open(&broker, &own).await, open(&broker, &named).await);
    write(&broker, &messages("s", 0..1)).await.unwrap();
    let now = Instant::now();
    assert_eq!(own.one().await.lease, Some(now + 3 * SECOND));
    assert_eq!(named.one().await.lease, Some(now + 4 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn options_that_cannot_be_are_refused() {
    for (name, value, kind) in [
        ("lease_ms", "1000", ErrorKind::Unsupported),
        ("lease_ms", "0", ErrorKind::InvalidConfig),
        ("lease_ms", "x", ErrorKind::InvalidConfig),
        ("leese", "1", ErrorKind::InvalidConfig),
    ] {
        let mut options = options("s");
        options.driver.set(name, value);
        let Err(error) = broker().reader().subscribe(&options).await else {
            panic!("{name}={value} was taken");
        };
        assert_eq!(error.kind(), kind, "{error}");
    }
}
