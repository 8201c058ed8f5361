//! Everything at once, on several threads: a wake-up that is lost hangs this.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_chanbuf::Chanbuf;
use streams_core::{Driver, SettleAction, StartFrom};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::{PATIENCE, builder, join, keyed, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_publishers_lose_and_double_nothing() {
    let broker = builder().capacity(64).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let mut publishers = JoinSet::new();
    for publisher in 0..50 {
        let writer = broker.writer();
        publishers.spawn(async move {
            let key = publisher.to_string();
            for n in (publisher * 100..publisher * 100 + 100).step_by(5) {
                let batch: Vec<_> = (n..n + 5).map(|n| keyed("s", &key, n)).collect();
                match writer.try_write(&batch) {
                    Some(result) => result.unwrap(),
                    None => writer.write(&batch).await.unwrap(),
                }
            }
        });
    }
    let mut seen = HashSet::new();
    let mut last = HashMap::new();
    let all = async {
        while seen.len() < 5000 {
            let some = tap.some(32).await;
            for one in &some {
                let n = number(&one.message);
                assert!(seen.insert(n), "{n} came twice");
                if let Some(before) = last.insert(n / 100, n) {
                    assert!(before < n, "{n} came after {before}");
                }
            }
            tap.ack(some);
        }
    };
    timeout(PATIENCE, all).await.expect("all come");
    while let Some(one) = publishers.join_next().await {
        one.unwrap();
    }
}

/// Members that join, leave, drop receives, retry and release, on a stream so small that writers
/// wait, with leases that run out. Everything is acknowledged in the end, order per key held.
async fn churn(seed: u64, lease: Option<Duration>) {
    const COUNT: usize = 3000;
    const KEYS: usize = 20;
    let mut settings = Chanbuf::builder().capacity(50);
    if let Some(lease) = lease {
        settings = settings.lease(lease);
    }
    let broker = settings.build().unwrap();
    broker.create_group("s", "g", &StartFrom::Latest).unwrap();
    let acked = Arc::new(Mutex::new(HashSet::new()));
    let mut tasks = JoinSet::new();
    for publisher in 0..3 {
        let writer = broker.writer();
        let mut rng = fastrand::Rng::with_seed(seed + publisher);
        tasks.spawn(async move {
            // A key belongs to one publisher, so that there is an order to keep.
            let own: Vec<_> = (0..COUNT)
                .filter(|n| (n % KEYS) as u64 % 3 == publisher)
                .collect();
            let mut at = 0;
            while at < own.len() {
                let end = own.len().min(at + rng.usize(1..120));
                let batch: Vec<_> = own[at..end]
                    .iter()
                    .map(|n| keyed("s", &format!("key {}", n % KEYS), *n))
                    .collect();
                writer.write(&batch).await.unwrap();
                at = end;
            }
        });
    }
    for member in 0..6 {
        let (broker, acked) = (broker.clone(), acked.clone());
        let mut rng = fastrand::Rng::with_seed(seed * 31 + member);
        tasks.spawn(async move {
            let mut tap = join(&broker, "s", "g").await;
            while acked.lock().unwrap().len() < COUNT {
                let mut out = Vec::new();
                let max = NonZeroUsize::new(rng.usize(1..30)).unwrap();
                // At most a moment, to see the end.
                let patience = Duration::from_micros(rng.u64(0..20_000));
                let received = timeout(patience, tap.0.receive(max, &mut out)).await;
                if received.is_err() {
                    assert!(out.is_empty());
                }
                if rng.u8(0..40) == 0 {
                    drop(tap);
                    tap = join(&broker, "s", "g").await;
                    continue;
                }
                for one in out {
                    let n = number(&one.message);
                    let action = match rng.u8(0..30) {
                        0 => SettleAction::Release,
                        1 => SettleAction::Retry { after: None },
                        2 => SettleAction::Retry {
                            after: Some(Duration::from_micros(rng.u64(0..3000))),
                        },
                        // Never settled: its lease runs out.
                        3 if lease.is_some() => continue,
                        _ => SettleAction::Ack,
                    };
                    // Under the lock, so that nobody sees a later one acknowledged first.
                    let mut acked = acked.lock().unwrap();
                    let report = tap.settle(vec![one.token.settle(action)]);
                    if action == SettleAction::Ack && report.lost.is_empty() {
                        assert!(acked.insert(n), "seed {seed}: {n} was acknowledged twice");
                    }
                }
            }
        });
    }
    let all = async {
        while let Some(one) = tasks.join_next().await {
            one.unwrap();
        }
    };
    let done = timeout(PATIENCE, all).await;
    let count = acked.lock().unwrap().len();
    assert!(done.is_ok(), "seed {seed}: {count} of {COUNT} came");
    assert_eq!(broker.backlog(), streams_chanbuf::Backlog::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_comes_through_the_churn() {
    let base = fastrand::u64(..1 << 32);
    for seed in base..base + 3 {
        churn(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_comes_through_the_churn_with_leases() {
    let base = fastrand::u64(..1 << 32);
    for seed in base..base + 3 {
        churn(seed, Some(Duration::from_millis(20))).await;
    }
}
