//! Members that are processes of their own: stopped, killed, or with a clock that is an hour wrong.

use std::time::{Duration, SystemTime};

use streams_core::{
    Claim, DeduplicationStorage as _, Driver as _, MessageId, SettleAction, unix_millis,
};
use streams_redis::RedisDeduplication;

use crate::other::Other;
use crate::support::{
    GROUP, LEASE, Test, handle, nothing_comes, numbers, pending, settle, take, until,
};

const HOUR: i64 = 3600;
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_process_that_is_stopped_for_longer_than_its_lease_does_no_harm_and_is_told() {
    let test = Test::shared().await;
    let mut stopped = Other::start(&test, GROUP, LEASE).await;
    test.write(&test.messages(4)).await;
    assert_eq!(stopped.ask("take 4").await, "0 1 2 3");
    stopped.stop().await;
    // It is told to settle while it sleeps, so it does that before anything else.
    stopped.tell("acknowledge").await;
    let mut other = test.member().await;
    let again = take(&mut *other, 4).await;
    let attempts: Vec<_> = again.iter().map(|delivery| delivery.attempt).collect();
    assert_eq!(attempts, [Some(2); 4]);
    stopped.go_on().await;
    assert_eq!(
        stopped.answer().await,
        "4",
        "all are lost to it, and it is told"
    );
    assert_eq!(
        pending(&test).await,
        4,
        "nothing of the other's is acknowledged"
    );
    let report = settle(&mut *other, again, SettleAction::Ack).await;
    assert!(report.lost.is_empty());
    assert_eq!(pending(&test).await, 0);
    // It goes on as if nothing had been.
    drop(other);
    test.write(&[test.message("next")]).await;
    assert_eq!(stopped.ask("take 1").await, "next");
    assert_eq!(stopped.ask("acknowledge").await, "0");
}

#[tokio::test]
async fn what_a_killed_process_had_comes_to_others_but_not_what_it_acknowledged() {
    let test = Test::shared().await;
    test.write(&test.messages(6)).await;
    let mut killed = Other::start(&test, GROUP, LEASE).await;
    killed.ask("take 2").await;
    assert_eq!(killed.ask("acknowledge").await, "0");
    killed.ask("take 1").await;
    assert_eq!(killed.ask("retry 100").await, "0");
    assert_eq!(killed.ask("take 3").await, "3 4 5");
    killed.kill().await;
    let mut other = test.member().await;
    let mut data = Vec::new();
    while data.len() < 4 {
        data.extend(handle(&mut *other, 1).await);
    }
    data.sort();
    assert_eq!(data, numbers(2..6));
    assert_eq!(pending(&test).await, 0);
}

/// A member whose clock is so much wrong; it is, really.
async fn wrong(test: &Test, lease: Duration, seconds: i64) -> Other {
    let mut other = Other::with_wrong_clock(test, GROUP, lease, seconds).await;
    let told: i64 = other.ask("clock").await.parse().unwrap();
    let off = told - unix_millis(SystemTime::now());
    assert!((off - seconds * 1000).abs() < 60_000, "it is {off} ms off");
    other
}

#[tokio::test]
async fn leases_and_delays_of_a_member_whose_clock_is_wrong_are_as_long_as_others() {
    let lease = 3 * LEASE;
    for seconds in [HOUR, -HOUR] {
        let test = Test::shared().await;
        let mut other = wrong(&test, lease, seconds).await;
        let driver = test.builder().lease(lease).build().unwrap();
        let join = async || driver.reader().subscribe(&test.in_group()).await.unwrap();
        let mut right = join().await;
        // What the right one has is not taken from it.
        test.write(&test.messages(2)).await;
        let held = take(&mut *right, 2).await;
        assert_eq!(other.ask("quiet").await, "quiet");
        assert!(
            settle(&mut *right, held, SettleAction::Ack)
                .await
                .lost
                .is_empty()
        );
        // Nor the other way round, also when its lease has begun anew.
        test.write(&test.messages(2)).await;
        let taking = other.ask("take 2");
        assert_eq!(taking.await, "0 1");
        assert_eq!(other.ask("extend 4500").await, "0");
        nothing_comes(&mut *right).await;
        // A delay is so long, and neither an hour more nor less.
        assert_eq!(other.ask("retry 700").await, "0");
        nothing_comes(&mut *right).await;
        let again = take(&mut *right, 2).await;
        assert!(again.iter().all(|delivery| delivery.attempt == Some(2)));
        settle(&mut *right, again, SettleAction::Ack).await;
        // What it has when it dies comes when its lease is over.
        test.write(&test.messages(1)).await;
        right.close().await.unwrap();
        other.ask("take 1").await;
        other.kill().await;
        let mut right = join().await;
        assert_eq!(take(&mut *right, 1).await[0].attempt, Some(2));
    }
}

#[tokio::test]
async fn what_is_scheduled_is_moved_in_time_by_a_process_whose_clock_is_wrong() {
    for seconds in [HOUR, -HOUR] {
        let test = Test::shared().await;
        let due = {
            // Moved by the other process alone: this one forgets that it has scheduled it.
            let driver = test.driver();
            let due = SystemTime::now() + Duration::from_secs(2);
            let soon = test.messages(1);
            driver.writer().write_at(&soon, due).await.unwrap();
            due
        };
        let mut other = wrong(&test, LEASE, seconds).await;
        assert_eq!(other.ask("take 1").await, "0");
        let late = SystemTime::now().duration_since(due).expect("it is early");
        assert!(late < Duration::from_secs(10), "late by {late:?}");
    }
}

#[tokio::test]
async fn claims_of_a_worker_whose_clock_is_wrong_expire_in_time() {
    for seconds in [HOUR, -HOUR] {
        let test = Test::shared().await;
        let storage = RedisDeduplication::new(&test.driver());
        let mut other = wrong(&test, LEASE, seconds).await;
        let (done, dead) = (
            format!("{}-done", test.stream),
            format!("{}-dead", test.stream),
        );
        let claim = async |id: &str| {
            let id = MessageId::new(id).unwrap();
            storage.claim("a", &id, LONG).await.unwrap()
        };
        assert_eq!(other.ask(&format!("claim {done} 60000")).await, "acquired");
        assert_eq!(claim(&done).await, Claim::InProgress);
        assert_eq!(other.ask(&format!("commit {done} 60000")).await, "true");
        assert_eq!(claim(&done).await, Claim::Done);
        assert_eq!(other.ask(&format!("claim {dead} 500")).await, "acquired");
        assert_eq!(claim(&dead).await, Claim::InProgress);
        until("it has expired", async || {
            matches!(claim(&dead).await, Claim::Acquired(_))
        })
        .await;
    }
}
