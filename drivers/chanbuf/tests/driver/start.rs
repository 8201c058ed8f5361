//! Where a group starts.

use std::time::{Duration, SystemTime};

use streams_core::{Driver, ErrorKind, Message, StartFrom};

use crate::common::{broker, builder, join, join_from, messages, open, options, write};

fn at(n: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_new_group_starts_where_it_is_told_the_boundary_included() {
    let broker = builder().retain(10).build().unwrap();
    let batch: Vec<_> = messages("s", 0..20)
        .iter()
        .zip(0..)
        .map(|(m, n)| m.to_builder().time(at(n)).build().unwrap())
        .collect();
    write(&broker, &batch).await.unwrap();
    let kept = |from: usize| (from..20).collect::<Vec<_>>();
    let starts = [
        (StartFrom::Earliest, 10),
        (StartFrom::Position("10".to_owned()), 10),
        (StartFrom::Position("15".to_owned()), 15),
        (StartFrom::Position("20".to_owned()), 20),
        (StartFrom::Time(at(0)), 10),
        (StartFrom::Time(at(15)), 15),
        (StartFrom::Time(at(15) - Duration::from_millis(1)), 15),
        (StartFrom::Time(at(15) + Duration::from_millis(1)), 16),
        (StartFrom::Time(at(99)), 20),
        (StartFrom::Latest, 20),
        (StartFrom::Default, 20),
    ];
    for (i, (start, first)) in starts.into_iter().enumerate() {
        let mut tap = join_from(&broker, &format!("g{i}"), start.clone()).await;
        let got: Vec<_> = tap.now(100);
        let positions: Vec<_> = got.iter().map(|d| d.token.id().sequence).collect();
        assert_eq!(crate::common::numbers(&got), kept(first), "{start:?}");
        assert!(positions.iter().zip(first as u64..).all(|(p, n)| *p == n));
        tap.ack(got);
        broker.delete_group("s", &format!("g{i}")).unwrap();
        // The same for a reader without a group.
        let mut tap = open(&broker, &options("s").start_from(start)).await;
        assert_eq!(crate::common::numbers(&tap.now(100)), kept(first));
    }
}

#[tokio::test(start_paused = true)]
async fn positions_that_cannot_be_are_refused() {
    let broker = builder().retain(2).build().unwrap();
    write(&broker, &messages("s", 0..5)).await.unwrap();
    for (position, kind) in [
        ("2", ErrorKind::NotFound),
        ("6", ErrorKind::NotFound),
        ("x", ErrorKind::InvalidConfig),
        ("-1", ErrorKind::InvalidConfig),
    ] {
        let options = options("s").start_from(StartFrom::Position(position.to_owned()));
        let Err(error) = broker.reader().subscribe(&options).await else {
            panic!("{position} was taken");
        };
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_goes_on_from_where_it_is() {
    let broker = builder().retain(100).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    assert_eq!(tap.handle(2).await, [0, 1]);
    drop(tap);
    let mut tap = join_from(&broker, "g", StartFrom::Latest).await;
    assert_eq!(tap.handle(2).await, [2, 3]);
    // As does one that was made before.
    broker
        .create_group("s", "made", &StartFrom::Earliest)
        .unwrap();
    broker
        .create_group("s", "made", &StartFrom::Latest)
        .unwrap();
    let mut tap = join(&broker, "s", "made").await;
    assert_eq!(tap.handle(4).await, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn retention_keeps_what_was_asked_for_and_no_more() {
    let broker = builder().retain(3).build().unwrap();
    let mut reads = join(&broker, "s", "g").await;
    for round in 0..50 {
        write(&broker, &messages("s", round * 2..round * 2 + 2))
            .await
            .unwrap();
        reads.handle(2).await;
        let mut tap = open(&broker, &options("s").start_from(StartFrom::Earliest)).await;
        let last = round * 2 + 2;
        let kept: Vec<_> = (last.saturating_sub(3)..last).collect();
        assert_eq!(crate::common::numbers(&tap.now(100)), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_behind_keeps_what_others_have_read() {
    let broker = broker();
    let mut slow = join(&broker, "s", "slow").await;
    let mut quick = join(&broker, "s", "quick").await;
    write(&broker, &messages("s", 0..10)).await.unwrap();
    quick.handle(10).await;
    let mut late = join_from(&broker, "late", StartFrom::Earliest).await;
    assert_eq!(slow.handle(10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(late.handle(10).await, (0..10).collect::<Vec<_>>());
    let mut none = join_from(&broker, "none", StartFrom::Earliest).await;
    assert!(none.now(1).is_empty(), "nothing is kept any more");
}

#[tokio::test(start_paused = true)]
async fn dead_letters_wait_for_their_first_reader() {
    let broker = broker();
    let dead: Vec<Message> = messages("s.dlq", 0..5);
    write(&broker, &dead).await.unwrap();
    let mut looks = open(&broker, &options("s.dlq")).await;
    assert_eq!(looks.handle(5).await, [0, 1, 2, 3, 4]);
    drop(looks);
    // Looking takes nothing away.
    let mut redrives = join(&broker, "s.dlq", "redrive").await;
    assert_eq!(redrives.handle(5).await, [0, 1, 2, 3, 4]);
}
