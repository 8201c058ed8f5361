//! Groups share, readers without a group do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use streams_core::{Driver, ErrorKind};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::{PATIENCE, broker, join, message, messages, numbers, open, options, write};

#[tokio::test(start_paused = true)]
async fn each_group_gets_all_in_order() {
    let broker = broker();
    let mut a = join(&broker, "s", "a").await;
    let mut b = join(&broker, "s", "b").await;
    write(&broker, &messages("s", 0..100)).await.unwrap();
    let all: Vec<_> = (0..100).collect();
    assert_eq!(a.handle(100).await, all);
    assert_eq!(b.handle(100).await, all);
    assert!(a.now(1).is_empty() && b.now(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_goes_on_gathering() {
    let broker = broker();
    let mut first = join(&broker, "s", "g").await;
    first.0.close().await.unwrap();
    write(&broker, &messages("s", 0..10)).await.unwrap();
    let mut second = join(&broker, "s", "g").await;
    assert_eq!(second.handle(10).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn readers_without_a_group_get_a_copy_each_and_leave_nothing_behind() {
    let broker = broker();
    let mut a = open(&broker, &options("s")).await;
    let mut b = open(&broker, &options("s")).await;
    write(&broker, &messages("s", 0..10)).await.unwrap();
    assert_eq!(a.handle(10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(numbers(&b.take(10).await), (0..10).collect::<Vec<_>>());
    a.0.close().await.unwrap();
    drop(b);
    let error = write(&broker, &messages("s", 0..1)).await.unwrap_err();
    assert_eq!(
        error.failures()[0].1.kind(),
        ErrorKind::NoSubscriberRegistered
    );
}

/// Every member asks for as much as it can get and keeps it until all have something.
async fn spreads(members: usize, waiting: bool) {
    let broker = broker();
    let everybody = Arc::new(Barrier::new(members));
    let asking = Arc::new(AtomicUsize::new(0));
    let mut working = JoinSet::new();
    let mut taps = Vec::new();
    for _ in 0..members {
        taps.push(join(&broker, "s", "g").await);
    }
    let batch = messages("s", 0..members * 20);
    if !waiting {
        write(&broker, &batch).await.unwrap();
    }
    for mut tap in taps {
        let (everybody, asking) = (everybody.clone(), asking.clone());
        working.spawn(async move {
            asking.fetch_add(1, Ordering::Relaxed);
            // As a runner with a lot of room: it goes on asking as long as there is something.
            let mut mine = tap.some(256).await;
            loop {
                let more = tap.0.try_receive(256.try_into().unwrap(), &mut mine);
                if more.is_none() {
                    break;
                }
            }
            everybody.wait().await;
            let got = mine.len();
            tap.ack(mine);
            got
        });
    }
    if waiting {
        while asking.load(Ordering::Relaxed) < members {
            tokio::task::yield_now().await;
        }
        write(&broker, &batch).await.unwrap();
    }
    let all = async {
        let mut got = 0;
        while let Some(one) = working.join_next().await {
            got += one.unwrap();
        }
        got
    };
    let got = timeout(PATIENCE, all)
        .await
        .expect("every member gets something");
    assert!(got >= members, "{got}");
}

#[tokio::test(start_paused = true)]
async fn work_spreads_over_fifty_members_that_wait_for_it() {
    spreads(50, true).await;
}

#[tokio::test(start_paused = true)]
async fn work_that_is_there_already_spreads_over_fifty_members() {
    spreads(50, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_spreads_over_fifty_members_on_several_threads() {
    spreads(50, true).await;
}

#[tokio::test(start_paused = true)]
async fn members_take_turns_when_there_is_little_to_do() {
    let broker = broker();
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let mut working = JoinSet::new();
    for member in 0..2 {
        let mut tap = join(&broker, "s", "g").await;
        let counts = counts.clone();
        working.spawn(async move {
            loop {
                let one = tap.one().await;
                counts[member].fetch_add(1, Ordering::Relaxed);
                tap.ack(vec![one]);
            }
        });
    }
    let count = |member: usize| counts[member].load(Ordering::Relaxed);
    for n in 0..100 {
        write(&broker, &[message("s", n)]).await.unwrap();
        while count(0) + count(1) <= n {
            tokio::task::yield_now().await;
        }
    }
    assert!(
        count(0) >= 40 && count(1) >= 40,
        "{} and {}",
        count(0),
        count(1)
    );
    working.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_ask_keeps_nothing_from_the_others() {
    let broker = broker();
    let _silent = join(&broker, "s", "g").await;
    let mut busy = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..100)).await.unwrap();
    assert_eq!(busy.handle(100).await, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_ends_its_members_and_comes_back_anew() {
    let broker = broker();
    let mut old = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..3)).await.unwrap();
    let held = old.one().await;
    assert!(broker.delete_group("s", "g").unwrap());
    assert!(!broker.delete_group("s", "g").unwrap());
    assert!(!broker.delete_group("other", "g").unwrap());

    let mut out = Vec::new();
    let received = old.0.receive(1.try_into().unwrap(), &mut out).await;
    assert_eq!(received.unwrap_err().kind(), ErrorKind::NotFound);
    let mut new = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 3..5)).await.unwrap();
    // What the old member held is nobody's now, and it holds nothing of the new group.
    let id = held.token.id();
    assert_eq!(old.settle(vec![held.ack()]).lost, [id]);
    old.0.close().await.unwrap();
    assert_eq!(new.handle(2).await, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn deleting_a_group_wakes_members_that_wait() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    let waits = tokio::spawn(async move {
        let mut out = Vec::new();
        tap.0.receive(1.try_into().unwrap(), &mut out).await
    });
    tokio::task::yield_now().await;
    broker.delete_group("s", "g").unwrap();
    let received = timeout(PATIENCE, waits).await.expect("woken").unwrap();
    assert_eq!(received.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn group_names_are_checked() {
    let broker = broker();
    for name in ["", "a b", "a*"] {
        let error = broker.create_group("s", name, &streams_core::StartFrom::Latest);
        assert_eq!(
            error.unwrap_err().kind(),
            ErrorKind::InvalidMessage,
            "{name:?}"
        );
    }
    let known = broker.reader().subscribe(&options("s")).await;
    assert!(known.is_ok());
}
