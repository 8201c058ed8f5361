//! Bounds: what is full waits or refuses, what is too large is named, what nobody holds is said.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_chanbuf::{Chanbuf, Full, Unheld};
use streams_core::{Driver, ErrorKind, Message, StartFrom, WriteError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::{
    PATIENCE, SECOND, broker, builder, join, join_from, message, messages, open, options, write,
};

fn failed(result: Result<(), WriteError>) -> Vec<(usize, ErrorKind)> {
    match result {
        Ok(()) => Vec::new(),
        Err(error) => error
            .failures()
            .iter()
            .map(|(index, error)| (*index, error.kind()))
            .collect(),
    }
}

fn small(full: Full) -> Chanbuf {
    builder().capacity(4).full(full).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_stream_refuses_by_index_exactly_what_it_did_not_take() {
    let broker = small(Full::Refuse);
    let mut tap = join(&broker, "s", "g").await;
    let result = write(&broker, &messages("s", 0..6)).await;
    assert_eq!(failed(result), [(4, ErrorKind::Full), (5, ErrorKind::Full)]);
    // What is delivered counts until it is settled.
    let held = tap.take(4).await;
    assert_eq!(
        failed(write(&broker, &messages("s", 6..7)).await),
        [(0, ErrorKind::Full)]
    );
    tap.ack(held);
    assert!(write(&broker, &messages("s", 4..6)).await.is_ok());
    assert_eq!(tap.handle(2).await, [4, 5]);
    let writer = broker.writer();
    let fits = writer.try_write(&messages("s", 6..10));
    assert!(matches!(fits, Some(Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn every_failure_says_what_to_do() {
    let broker = small(Full::Refuse);
    let _tap = join(&broker, "s", "g").await;
    let error = write(&broker, &messages("s", 0..7)).await.unwrap_err();
    assert_eq!(error.failures().len(), 3);
    for (_, error) in error.failures() {
        assert!(error.is_retryable());
        assert!(error.to_string().contains("capacity"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_slowest_group_is_what_counts() {
    let broker = small(Full::Refuse);
    let mut quick = join(&broker, "s", "quick").await;
    let mut slow = join(&broker, "s", "slow").await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    quick.handle(4).await;
    assert_eq!(failed(write(&broker, &messages("s", 4..5)).await).len(), 1);
    slow.handle(1).await;
    assert!(write(&broker, &messages("s", 4..5)).await.is_ok());
    assert_eq!(failed(write(&broker, &messages("s", 5..6)).await).len(), 1);
    // Without it there is room again.
    broker.delete_group("s", "slow").unwrap();
    assert!(write(&broker, &messages("s", 5..6)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_room_and_a_batch_larger_than_the_stream_goes_in_portions() {
    let broker = small(Full::Wait);
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    assert!(
        writer.try_write(&messages("s", 0..50)).is_none(),
        "it must wait"
    );
    let writes = tokio::spawn(async move { writer.write(&messages("s", 0..50)).await });
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let some = tap.some(64).await;
        assert!(some.len() <= 4, "{} at once", some.len());
        seen.extend(crate::common::numbers(&some));
        tap.ack(some);
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    writes.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn writers_that_wait_are_served_in_turn() {
    let broker = small(Full::Wait);
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    let mut writes = JoinSet::new();
    let done = Arc::new(Mutex::new(Vec::new()));
    for writer in 1..=5 {
        let (broker, done) = (broker.clone(), done.clone());
        writes.spawn(async move {
            let batch = messages("s", writer * 100..writer * 100 + 3);
            broker.writer().write(&batch).await.unwrap();
            done.lock().await.push(writer);
        });
        tokio::task::yield_now().await;
    }
    // One that comes when there is room, while others wait, does not get ahead of them.
    let held = tap.take(4).await;
    tap.ack(held);
    assert!(
        broker
            .writer()
            .try_write(&messages("s", 900..901))
            .is_none()
    );
    let last = broker.clone();
    writes.spawn(async move { last.writer().write(&messages("s", 900..901)).await.unwrap() });
    let mut seen = Vec::new();
    while seen.len() < 16 {
        seen.extend(tap.handle(1).await);
    }
    let expected: Vec<_> = (1..=5)
        .flat_map(|w| w * 100..w * 100 + 3)
        .chain([900])
        .collect();
    assert_eq!(seen, expected);
    while let Some(one) = writes.join_next().await {
        one.unwrap();
    }
    assert_eq!(*done.lock().await, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_stops_waiting_lets_the_next_one_in() {
    let broker = small(Full::Wait);
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    let first = tokio::spawn({
        let broker = broker.clone();
        async move { write(&broker, &messages("s", 4..8)).await }
    });
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let broker = broker.clone();
        async move { write(&broker, &messages("s", 8..9)).await }
    });
    tokio::task::yield_now().await;
    // Room is made for the first, which is dropped before it gets to use it.
    tap.handle(1).await;
    first.abort();
    timeout(PATIENCE, second)
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    assert!(first.await.unwrap_err().is_cancelled());
    let seen = tap.handle(4).await;
    assert_eq!((seen[..3].to_vec(), seen[3]), (vec![1, 2, 3], 8));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_writer_is_told_when_nobody_holds_the_stream_any_more() {
    let broker = small(Full::Wait);
    let tap = open(&broker, &options("s")).await;
    write(&broker, &messages("s", 0..4)).await.unwrap();
    let waits = tokio::spawn({
        let broker = broker.clone();
        async move { write(&broker, &messages("s", 4..6)).await }
    });
    tokio::task::yield_now().await;
    drop(tap);
    let result = timeout(PATIENCE, waits).await.expect("told").unwrap();
    let kind = ErrorKind::NoSubscriberRegistered;
    assert_eq!(failed(result), [(0, kind), (1, kind)]);
}

#[tokio::test(start_paused = true)]
async fn flush_and_close_wait_for_writes_that_have_begun() {
    let broker = small(Full::Wait);
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let begun = tokio::spawn({
        let writer = writer.clone();
        async move { writer.write(&messages("s", 0..6)).await }
    });
    tokio::task::yield_now().await;
    assert!(timeout(SECOND, writer.flush()).await.is_err(), "two wait");
    let closing = tokio::spawn({
        let writer = writer.clone();
        async move { writer.close().await }
    });
    tokio::task::yield_now().await;
    let late = writer.write(&messages("s", 6..7)).await;
    assert_eq!(failed(late), [(0, ErrorKind::Closed)]);
    assert_eq!(tap.handle(4).await, [0, 1, 2, 3]);
    assert_eq!(tap.handle(2).await, [4, 5]);
    begun.await.unwrap().unwrap();
    timeout(PATIENCE, closing)
        .await
        .expect("closed")
        .unwrap()
        .unwrap();
    writer.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn too_large_messages_fail_alone() {
    let broker = builder().largest_message(3).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let data = |data: &'static str| Message::builder("s").data(data).build().unwrap();
    let batch = [
        data("1234"),
        data("1"),
        data("12"),
        data("12345"),
        data("123"),
    ];
    let kind = ErrorKind::TooLarge;
    assert_eq!(failed(write(&broker, &batch).await), [(0, kind), (3, kind)]);
    assert_eq!(tap.handle(3).await, [1, 12, 123]);
    let later = SystemTime::now() + SECOND;
    let result = broker.writer().write_at(&batch, later).await;
    assert_eq!(failed(result), [(0, kind), (3, kind)]);
    assert_eq!(tap.handle(3).await, [1, 12, 123]);
    assert_eq!(broker.reader().capabilities().largest_message, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_message_nobody_would_get_is_refused_with_a_way_out() {
    let broker = broker();
    let error = write(&broker, &messages("s", 0..2)).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [0, 1]);
    for (_, error) in error.failures() {
        assert_eq!(error.kind(), ErrorKind::NoSubscriberRegistered);
        assert!(error.to_string().contains("subscribe"), "{error}");
    }

    // A part of a batch that goes to several streams.
    let mut tap = join(&broker, "held", "g").await;
    let mixed = [message("s", 0), message("held", 1), message("s", 2)];
    let kind = ErrorKind::NoSubscriberRegistered;
    assert_eq!(failed(write(&broker, &mixed).await), [(0, kind), (2, kind)]);
    assert_eq!(tap.handle(1).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_message_nobody_would_get_is_dropped_where_that_was_asked_for() {
    let broker = builder().unheld(Unheld::Discard).build().unwrap();
    write(&broker, &messages("s", 0..2)).await.unwrap();
    let mut tap = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 2..3)).await.unwrap();
    assert_eq!(tap.handle(1).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_refused_when_there_are_too_many_and_never_dropped() {
    for full in [Full::Wait, Full::Refuse] {
        let broker = builder()
            .full(full)
            .retain(1)
            .dead_letter_capacity(5)
            .build()
            .unwrap();
        write(&broker, &messages("s.dlq", 0..4)).await.unwrap();
        // Nobody reads them, so waiting would be for ever.
        let result = timeout(PATIENCE, write(&broker, &messages("s.dlq", 4..7))).await;
        let result = result.expect("refused at once");
        let text = result.as_ref().unwrap_err().to_string();
        assert!(text.contains("dead_letter_capacity"), "{text}");
        let kind = ErrorKind::Full;
        assert_eq!(failed(result), [(1, kind), (2, kind)]);
        let mut tap = join(&broker, "s.dlq", "g").await;
        assert_eq!(tap.handle(5).await, [0, 1, 2, 3, 4]);
        write(&broker, &messages("s.dlq", 5..7)).await.unwrap();
        assert_eq!(tap.handle(2).await, [5, 6]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_scheduled_is_bounded_too() {
    let broker = builder().max_scheduled(3).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let due = SystemTime::now() + 10 * SECOND;
    let result = writer.write_at(&messages("s", 0..5), due).await;
    let kind = ErrorKind::Full;
    assert_eq!(failed(result), [(3, kind), (4, kind)]);
    assert_eq!(tap.handle(3).await, [0, 1, 2]);
    let due = due + Duration::from_secs(10);
    assert!(writer.write_at(&messages("s", 5..8), due).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_comes_due_waits_for_room_like_any_other() {
    let broker = small(Full::Refuse);
    let mut tap = join(&broker, "s", "g").await;
    let due = SystemTime::now() + SECOND;
    let writer = broker.writer();
    writer.write_at(&messages("s", 0..10), due).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    let held = tap.now(100);
    assert_eq!(crate::common::numbers(&held), [0, 1, 2, 3]);
    assert_eq!(
        failed(write(&broker, &messages("s", 10..11)).await).len(),
        1
    );
    tap.ack(held);
    assert_eq!(tap.handle(4).await, [4, 5, 6, 7]);
    assert_eq!(tap.handle(2).await, [8, 9]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_never_make_a_handler_wait() {
    let broker = builder().dead_letter_capacity(3).build().unwrap();
    // It has read them and gone; another looks and holds them all.
    broker
        .create_group("s.dlq", "redrive", &StartFrom::Default)
        .unwrap();
    let mut looks = open(&broker, &options("s.dlq")).await;
    write(&broker, &messages("s.dlq", 0..3)).await.unwrap();
    let _held = looks.take(3).await;
    let result = timeout(PATIENCE, write(&broker, &messages("s.dlq", 3..4))).await;
    assert_eq!(failed(result.expect("at once")), [(0, ErrorKind::Full)]);
}

#[tokio::test(start_paused = true)]
async fn looking_at_dead_letters_leaves_them_for_a_group() {
    let broker = builder().dead_letter_capacity(3).build().unwrap();
    let mut looks = open(&broker, &options("s.dlq")).await;
    write(&broker, &messages("s.dlq", 0..3)).await.unwrap();
    looks.handle(3).await;
    assert_eq!(
        failed(write(&broker, &messages("s.dlq", 3..4)).await),
        [(0, ErrorKind::Full)],
        "they are still there"
    );
    drop(looks);
    let mut group = join(&broker, "s.dlq", "g").await;
    assert_eq!(group.handle(3).await, [0, 1, 2]);
    write(&broker, &messages("s.dlq", 3..6)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_several_streams_fails_exactly_where_it_must() {
    let broker = builder()
        .capacity(2)
        .full(Full::Refuse)
        .largest_message(3)
        .build()
        .unwrap();
    let mut a = join(&broker, "a", "g").await;
    let mut b = join(&broker, "b", "g").await;
    let batch = [
        message("a", 0),
        message("b", 1),
        message("nobody", 2),
        message("a", 3000),
        message("a", 4),
        message("b", 5000),
        message("b", 6),
        message("a", 7),
        message("nobody", 8),
        message("b", 9),
    ];
    assert_eq!(
        failed(write(&broker, &batch).await),
        [
            (2, ErrorKind::NoSubscriberRegistered),
            (3, ErrorKind::TooLarge),
            (5, ErrorKind::TooLarge),
            (7, ErrorKind::Full),
            (8, ErrorKind::NoSubscriberRegistered),
            (9, ErrorKind::Full),
        ]
    );
    assert_eq!(a.handle(2).await, [0, 4]);
    assert_eq!(b.handle(2).await, [1, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_follows_a_refused_message_of_its_stream_is_refused_too() {
    let broker = small(Full::Refuse);
    let mut tap = join(&broker, "s", "g").await;
    let _other = join(&broker, "other", "g").await;
    // The stream is read meanwhile, so there would be room again for the later ones.
    let reads = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last() != Some(&usize::MAX) {
            let some = tap.some(1).await;
            seen.extend(crate::common::numbers(&some));
            tap.ack(some);
        }
        seen.pop();
        seen
    });
    let mut written = Vec::new();
    for round in 0..200 {
        let batch: Vec<_> = (0..40)
            .map(|i| match i % 2 {
                0 => message("s", round * 40 + i),
                _ => message("other", 0),
            })
            .collect();
        let failed: Vec<_> = failed(write(&broker, &batch).await)
            .into_iter()
            .map(|(index, _)| index)
            .filter(|index| index % 2 == 0)
            .collect();
        if let Some(first) = failed.first() {
            let all: Vec<_> = (*first..40).step_by(2).collect();
            assert_eq!(failed, all, "all from the first on");
        }
        let done = (0..40).step_by(2).filter(|index| !failed.contains(index));
        written.extend(done.map(|index| round * 40 + index));
    }
    while write(&broker, &[message("s", usize::MAX)]).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(reads.await.unwrap(), written);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_given_up_ends_the_writes_that_wait() {
    let broker = small(Full::Wait);
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let begun = tokio::spawn({
        let writer = writer.clone();
        async move { writer.write(&messages("s", 0..6)).await }
    });
    tokio::task::yield_now().await;
    assert!(timeout(SECOND, writer.close()).await.is_err(), "two wait");
    let result = timeout(PATIENCE, begun).await.expect("it ends").unwrap();
    assert_eq!(
        failed(result),
        [(4, ErrorKind::Closed), (5, ErrorKind::Closed)]
    );
    assert_eq!(tap.handle(4).await, [0, 1, 2, 3]);
    assert!(tap.now(1).is_empty());
    timeout(PATIENCE, writer.close())
        .await
        .expect("nothing is left")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_stream_comes_back_with_new_offsets() {
    let broker = broker();
    let mut last = None;
    for round in 0..3 {
        let mut tap = open(&broker, &options("s")).await;
        write(&broker, &messages("s", 0..5)).await.unwrap();
        for one in tap.take(5).await {
            let offset = one.token.id().sequence;
            assert!(
                last < Some(offset),
                "round {round}: {offset} after {last:?}"
            );
            last = Some(offset);
        }
    }
}

/// More deliveries at once than a token has room for: those that are held must be settled first.
#[tokio::test(start_paused = true)]
async fn a_million_unsettled_deliveries_are_the_most() {
    const MOST: usize = 1 << 20;
    let broker = builder().retain(MOST + 10).build().unwrap();
    let one = message("s", 1);
    let batch = vec![one; MOST + 10];
    write(&broker, &batch).await.unwrap();
    let mut tap = join_from(&broker, "g", StartFrom::Earliest).await;
    let mut held = tap.now(usize::MAX);
    assert_eq!(held.len(), MOST);
    assert!(tap.now(1).is_empty());
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let mut other = join(&broker, "s", "g").await;
        waiting.spawn(async move {
            other.one().await;
            other
        });
    }
    tokio::task::yield_now().await;
    // Each is settled under its own token, and as many who wait get one in its place.
    let last = held.split_off(MOST - 5);
    tap.ack(last);
    assert_eq!(
        waiting.join_all().await.len(),
        3,
        "they leave without settling"
    );
    tap.ack(held);
    assert_eq!(tap.now(usize::MAX).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn names_used_once_do_not_gather() {
    let broker = broker();
    let before = format!("{broker:?}");
    assert!(before.contains("streams: 0"), "{before}");
    for n in 0..100 {
        let stream = format!("s{n}");
        assert!(write(&broker, &messages(&stream, 0..1)).await.is_err());
        let mut tap = open(&broker, &options(&stream)).await;
        write(&broker, &messages(&stream, 0..1)).await.unwrap();
        tap.handle(1).await;
        drop(tap);
        broker
            .create_group(stream.as_str(), "g", &StartFrom::Latest)
            .unwrap();
        broker.delete_group(stream.as_str(), "g").unwrap();
        let due = SystemTime::now();
        assert!(
            broker
                .writer()
                .write_at(&messages(&stream, 0..1), due)
                .await
                .is_err()
        );
        let bad = options(&stream).start_from(StartFrom::Position("7000".to_owned()));
        assert!(broker.reader().subscribe(&bad).await.is_err());
    }
    assert_eq!(format!("{broker:?}"), before);
    // What is kept for somebody stays.
    write(&broker, &messages("s.dlq", 0..1)).await.unwrap();
    assert!(format!("{broker:?}").contains("streams: 1"));
}
