//! Scheduled messages.

use std::time::{Duration, SystemTime};

use streams_core::{Clock, Driver, ErrorKind, MessageId, StartFrom};
use tokio::time::{Instant, timeout};

use crate::common::{SECOND, builder, join, message, messages, number, open, options, write};

#[tokio::test(start_paused = true)]
async fn they_come_in_the_order_they_are_due_and_never_early() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let now = clock.now();
    for seconds in [7, 3, 9, 1, 5] {
        let due = now + SECOND * seconds as u32;
        writer
            .write_at(&[message("s", seconds)], due)
            .await
            .unwrap();
    }
    // Two at the same time come in the order written, a time gone by is now.
    writer
        .write_at(&messages("s", 11..13), now + 11 * SECOND)
        .await
        .unwrap();
    writer
        .write_at(&[message("s", 0)], now - 5 * SECOND)
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let one = tap.one().await;
        let n = number(&one.message);
        assert!(
            clock.now() >= now + SECOND * n.min(11) as u32,
            "{n} came early"
        );
        assert!(clock.now() < now + SECOND * n.min(11) as u32 + Duration::from_millis(3));
        seen.push(n);
        tap.ack(vec![one]);
    }
    assert_eq!(seen, [0, 1, 3, 5, 7, 9, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_before_the_time_finds_nothing() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let due = clock.now() + SECOND;
    broker
        .writer()
        .write_at(&[message("s", 1)], due)
        .await
        .unwrap();
    tokio::time::advance(SECOND - Duration::from_nanos(1)).await;
    assert!(tap.now(1).is_empty());
    write(&broker, &[message("s", 2)]).await.unwrap();
    assert_eq!(tap.handle(1).await, [2]);
    tokio::time::advance(Duration::from_nanos(1)).await;
    assert_eq!(crate::common::numbers(&tap.now(1)), [1]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_due_sooner_wakes_those_who_sleep_for_a_later_one() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let writer = broker.writer();
    let began = Instant::now();
    let mut waiting = Vec::new();
    for group in ["a", "b"] {
        let mut tap = join(&broker, "s", group).await;
        waiting.push(tokio::spawn(async move {
            let one = tap.one().await;
            (number(&one.message), began.elapsed().as_secs())
        }));
    }
    let now = clock.now();
    writer
        .write_at(&[message("s", 10)], now + 10 * SECOND)
        .await
        .unwrap();
    tokio::task::yield_now().await;
    writer
        .write_at(&[message("s", 2)], now + 2 * SECOND)
        .await
        .unwrap();
    for one in waiting {
        assert_eq!(one.await.unwrap(), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn it_comes_though_the_one_who_was_to_wake_for_it_stopped_waiting() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut taps = Vec::new();
    for _ in 0..3 {
        taps.push(join(&broker, "s", "g").await);
    }
    let mut last = taps.pop().unwrap();
    let [mut first, mut second] = <[_; 2]>::try_from(taps).unwrap_or_else(|_| unreachable!());
    let waits = tokio::spawn(async move { number(&last.one().await.message) });
    tokio::task::yield_now().await;
    let due = clock.now() + 10 * SECOND;
    let both = async {
        tokio::join!(
            timeout(2 * SECOND, first.one()),
            timeout(4 * SECOND, second.one()),
            async {
                tokio::task::yield_now().await;
                broker
                    .writer()
                    .write_at(&[message("s", 1)], due)
                    .await
                    .unwrap();
            },
        )
    };
    let (a, b, ()) = both.await;
    assert!(a.is_err() && b.is_err());
    assert_eq!(waits.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_can_be_taken_back_once() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let batch = messages("s", 0..3);
    writer.write_at(&batch, clock.now() + SECOND).await.unwrap();
    let stream = batch[1].stream();
    assert!(writer.cancel(stream, batch[1].id()).await.unwrap());
    assert!(!writer.cancel(stream, batch[1].id()).await.unwrap());
    assert!(
        !writer
            .cancel(stream, &MessageId::new("x").unwrap())
            .await
            .unwrap()
    );
    assert!(
        !writer
            .cancel(message("other", 0).stream(), batch[0].id())
            .await
            .unwrap()
    );
    assert_eq!(tap.handle(2).await, [0, 2]);
    assert!(
        !writer.cancel(stream, batch[0].id()).await.unwrap(),
        "it has gone out"
    );
    writer.close().await.unwrap();
    let error = writer.cancel(stream, batch[0].id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn cancelling_an_id_takes_back_all_that_wait_under_it() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let twice = message("s", 1);
    for seconds in [1, 2] {
        let due = clock.now() + SECOND * seconds;
        writer
            .write_at(std::slice::from_ref(&twice), due)
            .await
            .unwrap();
    }
    writer
        .write_at(&[message("s", 3)], clock.now() + 3 * SECOND)
        .await
        .unwrap();
    assert!(writer.cancel(twice.stream(), twice.id()).await.unwrap());
    assert!(!writer.cancel(twice.stream(), twice.id()).await.unwrap());
    assert_eq!(tap.handle(1).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_due_goes_before_what_is_written_after() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    writer
        .write_at(&[message("s", 1)], clock.now() + SECOND)
        .await
        .unwrap();
    tokio::time::sleep(2 * SECOND).await;
    write(&broker, &[message("s", 2)]).await.unwrap();
    assert_eq!(tap.handle(2).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_somebody_who_reads_the_stream() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let reader = open(&broker, &options("s")).await;
    let writer = broker.writer();
    writer
        .write_at(&[message("s", 1)], clock.now() + SECOND)
        .await
        .unwrap();
    drop(reader);
    tokio::time::sleep(5 * SECOND).await;
    broker.create_group("s", "g", &StartFrom::Default).unwrap();
    let mut tap = join(&broker, "s", "g").await;
    assert_eq!(tap.handle(1).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn the_farthest_time_is_as_good_as_any() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000);
    let batch = [message("s", 1)];
    writer.write_at(&batch, far).await.unwrap();
    // Timers reach about two years; waiting goes on past that.
    let ten_years = 10 * 365 * 24 * 3600 * SECOND;
    assert!(!tap.comes_within(ten_years).await);
    assert!(
        writer
            .cancel(batch[0].stream(), batch[0].id())
            .await
            .unwrap()
    );
    let in_five = clock.now() + ten_years / 2;
    writer.write_at(&batch, in_five).await.unwrap();
    let mut out = Vec::new();
    tap.0
        .receive(1.try_into().unwrap(), &mut out)
        .await
        .unwrap();
    assert!(clock.now() >= in_five && clock.now() < in_five + SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_are_no_trouble() {
    const COUNT: usize = 100_000;
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut tap = join(&broker, "s", "g").await;
    let writer = broker.writer();
    let mut batch = messages("s", 0..COUNT);
    let now = clock.now();
    fastrand::Rng::with_seed(7).shuffle(&mut batch);
    let began = std::time::Instant::now();
    for one in &batch {
        let due = now + Duration::from_millis(1 + number(one) as u64 / 10);
        writer
            .write_at(std::slice::from_ref(one), due)
            .await
            .unwrap();
    }
    let (mut seen, mut last) = (0, 0);
    while seen < COUNT {
        let mut some = Vec::new();
        tap.0
            .receive(256.try_into().unwrap(), &mut some)
            .await
            .unwrap();
        seen += some.len();
        for one in &some {
            let due = number(&one.message) / 10;
            assert!(due >= last);
            last = due;
        }
        tap.ack(some);
    }
    // Without optimisation, on a busy machine.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_comes_though_the_one_who_was_to_wake_for_it_has_something_else_to_do() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut tap = join(&broker, "s", "g").await;
        // It takes one, keeps it, and asks no more.
        waiting.push(tokio::spawn(async move {
            (number(&tap.one().await.message), tap)
        }));
        tokio::task::yield_now().await;
    }
    let due = clock.now() + 10 * SECOND;
    broker
        .writer()
        .write_at(&[message("s", 2)], due)
        .await
        .unwrap();
    tokio::task::yield_now().await;
    // Whoever was woken for the scheduled one gets this.
    write(&broker, &[message("s", 1)]).await.unwrap();
    let mut seen = Vec::new();
    for one in waiting {
        let (n, tap) = timeout(60 * SECOND, one).await.expect("in time").unwrap();
        seen.push((n, tap));
    }
    let mut seen: Vec<_> = seen.iter().map(|(n, _)| *n).collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2]);
    assert!(clock.now() < due + SECOND);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_room_hides_no_later_one_when_it_is_cancelled() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).capacity(1).build().unwrap();
    broker
        .create_group("s", "full", &StartFrom::Latest)
        .unwrap();
    let mut waits = join(&broker, "s", "g").await;
    let writer = broker.writer();
    write(&broker, &[message("s", 0)]).await.unwrap();
    waits.handle(1).await;
    let blocked = message("s", 1);
    writer
        .write_at(std::slice::from_ref(&blocked), clock.now())
        .await
        .unwrap();
    writer
        .write_at(&[message("s", 2)], clock.now() + 10 * SECOND)
        .await
        .unwrap();
    let waits = tokio::spawn(async move { number(&waits.one().await.message) });
    tokio::task::yield_now().await;
    assert!(writer.cancel(blocked.stream(), blocked.id()).await.unwrap());
    let mut full = join(&broker, "s", "full").await;
    full.handle(1).await;
    drop(full);
    assert_eq!(
        timeout(60 * SECOND, waits).await.expect("in time").unwrap(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_as_good_as_delivered() {
    let clock = Clock::following_tokio();
    let broker = builder().clock(clock).build().unwrap();
    broker.create_group("s", "g", &StartFrom::Latest).unwrap();
    let writer = broker.writer();
    let one = message("s", 1);
    writer
        .write_at(std::slice::from_ref(&one), clock.now() + SECOND)
        .await
        .unwrap();
    tokio::time::advance(SECOND).await;
    // Whether or not anybody has looked.
    assert!(!writer.cancel(one.stream(), one.id()).await.unwrap());
    broker.delete_group("s", "g").unwrap();
    let mut tap = join(&broker, "s", "g").await;
    assert!(tap.now(1).is_empty());
}
