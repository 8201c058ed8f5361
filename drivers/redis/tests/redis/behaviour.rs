//! Groups and positions.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use redis::Cmd;
use streams_core::{
    Driver as _, ErrorKind, Received, SettleAction, StartFrom, Subscription, from_unix_millis,
};
use streams_redis::{EntryId, Redis, RedisOptions};

use crate::support::{
    GROUP, LEASE, Test, handle, nothing_comes, numbers, pending, settle, take, text, until,
};

#[tokio::test]
async fn what_a_dead_member_had_comes_to_others_and_only_then_is_it_forgotten() {
    let test = Test::shared().await;
    test.write(&test.messages(10)).await;
    let mut dead = test.member().await;
    take(&mut *dead, 10).await;
    drop(dead);
    let mut other = test.member().await;
    let again = take(&mut *other, 10).await;
    assert!(again.iter().all(|delivery| delivery.attempt == Some(2)));
    let data: Vec<_> = again.iter().map(|d| text(&d.message)).collect();
    assert_eq!(data, numbers(0..10), "in order");
    settle(&mut *other, again, SettleAction::Ack).await;
    assert_eq!(pending(&test).await, 0);
}

#[tokio::test]
async fn a_member_that_closes_is_forgotten_at_once_and_what_it_had_is_not_counted() {
    let test = Test::shared().await;
    test.write(&test.messages(3)).await;
    let mut first = test.member().await;
    take(&mut *first, 2).await;
    first.close().await.unwrap();
    let mut consumers = Cmd::new();
    consumers
        .arg("XINFO")
        .arg("CONSUMERS")
        .arg(test.key())
        .arg(GROUP);
    let consumers: Vec<Vec<redis::Value>> = test.ask(&consumers).await;
    assert_eq!(
        consumers.len(),
        1,
        "only what holds the parked ones: {consumers:?}"
    );
    let mut second = test.member().await;
    let again = take(&mut *second, 3).await;
    assert!(again.iter().all(|delivery| delivery.attempt == Some(1)));
}

#[tokio::test]
async fn a_paused_member_that_comes_back_does_no_harm_and_is_told() {
    let test = Test::shared().await;
    test.write(&test.messages(4)).await;
    let mut paused = test.member().await;
    let late = take(&mut *paused, 4).await;
    // It neither extends nor settles: as if its process was stopped.
    let mut other = test.member().await;
    let again = take(&mut *other, 4).await;
    let report = settle(&mut *paused, late, SettleAction::Ack).await;
    assert_eq!(report.lost.len(), 4, "it is told");
    assert_eq!(
        pending(&test).await,
        4,
        "nothing of the other's is acknowledged"
    );
    let report = settle(&mut *other, again, SettleAction::Ack).await;
    assert!(report.lost.is_empty());
    assert_eq!(pending(&test).await, 0);
}

#[tokio::test]
async fn late_retries_and_releases_do_no_harm_either() {
    let test = Test::shared().await;
    test.write(&test.messages(2)).await;
    let mut paused = test.member().await;
    let mut late = take(&mut *paused, 2).await;
    let mut other = test.member().await;
    let again = take(&mut *other, 2).await;
    let released = late.split_off(1);
    let retry = SettleAction::Retry { after: None };
    assert_eq!(settle(&mut *paused, late, retry).await.lost.len(), 1);
    assert_eq!(
        settle(&mut *paused, released, SettleAction::Release)
            .await
            .lost
            .len(),
        1
    );
    assert!(
        settle(&mut *other, again, SettleAction::Ack)
            .await
            .lost
            .is_empty()
    );
    nothing_comes(&mut *other).await;
}

#[tokio::test]
async fn a_reader_that_is_idle_asks_only_as_often_as_it_polls() {
    let (test, _server) = Test::own(streams_services::Redis::new()).await;
    let mut reader = test.member().await;
    let reads = reads_while(&test, nothing_comes(&mut *reader)).await;
    assert!((1..=6).contains(&reads), "{reads} reads in 0.6 s");
}

#[tokio::test]
async fn a_reader_whose_group_is_gone_does_not_ask_in_a_loop_and_recovers() {
    let (test, _server) = Test::own(streams_services::Redis::new()).await;
    let mut reader = test.member().await;
    let destroying = async {
        let mut destroy = Cmd::new();
        destroy
            .arg("XGROUP")
            .arg("DESTROY")
            .arg(test.key())
            .arg(GROUP);
        for _ in 0..3 {
            assert_eq!(test.ask::<u32>(&destroy).await, 1);
            nothing_comes(&mut *reader).await;
        }
    };
    let reads = reads_while(&test, destroying).await;
    assert!((3..=24).contains(&reads), "{reads} reads in 1.8 s");
    test.write(&test.messages(2)).await;
    assert_eq!(handle(&mut *reader, 2).await, numbers(0..2));
}

/// How often the server is asked for entries of groups meanwhile.
async fn reads_while(test: &Test, meanwhile: impl Future<Output = ()>) -> u32 {
    let mut stats = Cmd::new();
    stats.arg("CONFIG").arg("RESETSTAT");
    let _: () = test.ask(&stats).await;
    meanwhile.await;
    let mut info = Cmd::new();
    info.arg("INFO").arg("commandstats");
    let info: String = test.ask(&info).await;
    let calls = |command: &str| -> u32 {
        let line = info.lines().find(|line| line.starts_with(command));
        let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    calls("cmdstat_xreadgroup")
}

#[tokio::test]
async fn what_is_written_between_subscribing_and_receiving_comes_to_a_reader_from_the_latest() {
    let test = Test::shared().await;
    test.write(&[test.message("before")]).await;
    let options = test.options().start_from(StartFrom::Latest);
    let mut reader = test.read(&options).await;
    test.write(&test.messages(3)).await;
    assert_eq!(handle(&mut *reader, 3).await, numbers(0..3));
    // Also between two polls that found nothing.
    nothing_comes(&mut *reader).await;
    test.write(&test.messages(3)).await;
    assert_eq!(handle(&mut *reader, 3).await, numbers(0..3));
}

#[tokio::test]
async fn a_start_at_a_time_includes_the_first_entry_of_its_millisecond() {
    let test = Test::shared().await;
    for id in [
        "1000-0",
        "1999-18446744073709551615",
        "2000-0",
        "2000-1",
        "3000-0",
    ] {
        let mut add = Cmd::new();
        add.arg("XADD")
            .arg(test.key())
            .arg(id)
            .arg("n")
            .arg("e")
            .arg("p")
            .arg(id);
        let _: String = test.ask(&add).await;
    }
    let at = StartFrom::Time(from_unix_millis(2000));
    for options in [test.options(), test.in_group()] {
        let mut reader = test.read(&options.start_from(at.clone())).await;
        let data = handle(&mut *reader, 3).await;
        assert_eq!(data, ["2000-0", "2000-1", "3000-0"]);
    }
}

#[tokio::test]
async fn start_at_a_time_goes_by_the_servers_clock_whatever_that_of_publishers_says() {
    let test = Test::shared().await;
    let hour = Duration::from_secs(3600);
    for wrong in [SystemTime::now() - hour, SystemTime::now() + hour] {
        let message = test.message("x").to_builder().time(wrong).build().unwrap();
        test.write(&[message]).await;
    }
    let minute_ago = StartFrom::Time(SystemTime::now() - Duration::from_secs(60));
    let mut reader = test.read(&test.options().start_from(minute_ago)).await;
    assert_eq!(handle(&mut *reader, 2).await.len(), 2);
    let in_a_minute = StartFrom::Time(SystemTime::now() + Duration::from_secs(60));
    let mut reader = test.read(&test.options().start_from(in_a_minute)).await;
    nothing_comes(&mut *reader).await;
}

#[tokio::test]
async fn a_start_in_the_future_is_waited_for_however_long_that_takes() {
    let test = Test::shared().await;
    test.write(&test.messages(2)).await;
    let mut time = Cmd::new();
    time.arg("TIME");
    let (seconds, _): (u64, u64) = test.ask(&time).await;
    let hour_on = EntryId {
        millis: (seconds + 3600) * 1000,
        sequence: 0,
    };
    let options = test
        .options()
        .start_from(StartFrom::Position(hour_on.to_string()));
    let mut reader = test.read(&options).await;
    // Readers look now and then whether their stream has begun anew; this one has not.
    for _ in 0..3 {
        nothing_comes(&mut *reader).await;
        test.write(&test.messages(1)).await;
    }
    let mut add = Cmd::new();
    add.arg("XADD").arg(test.key()).arg(hour_on.to_string());
    let _: String = test.ask(add.arg("n").arg("e").arg("p").arg("due")).await;
    assert_eq!(handle(&mut *reader, 1).await, ["due"]);
}

#[tokio::test]
async fn an_existing_group_keeps_its_position() {
    let test = Test::shared().await;
    test.write(&test.messages(4)).await;
    let mut first = test.member().await;
    assert_eq!(handle(&mut *first, 2).await, numbers(0..2));
    first.close().await.unwrap();
    let latest = test.in_group().start_from(StartFrom::Latest);
    let mut second = test.read(&latest).await;
    assert_eq!(handle(&mut *second, 2).await, numbers(2..4));
}

#[tokio::test]
async fn a_bad_position_is_refused() {
    let test = Test::shared().await;
    let position = StartFrom::Position("yesterday".to_owned());
    let options = test.options().start_from(position);
    let refused = test.driver().reader().subscribe(&options).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn another_lease_than_the_groups_is_reported() {
    let test = Test::shared().await;
    let first = test.member().await;
    drop(first);
    let other = test.builder().lease(2 * LEASE).build().unwrap();
    let options = test.in_group();
    let refused = other.reader().subscribe(&options).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    assert!(refused.to_string().contains("set_lease"), "{refused}");
    other
        .set_lease(&test.stream, GROUP, 2 * LEASE)
        .await
        .unwrap();
    other.reader().subscribe(&options).await.unwrap();
}

#[tokio::test]
async fn without_acknowledgement_nothing_is_pending_and_retries_come_all_the_same() {
    let test = Test::shared().await;
    test.write(&test.messages(3)).await;
    let mut options = test.in_group();
    options.driver.insert(RedisOptions::new().no_ack(true));
    let mut reader = test.read(&options).await;
    let mut deliveries = take(&mut *reader, 3).await;
    assert_eq!(pending(&test).await, 0);
    let retried = deliveries.split_off(2);
    settle(&mut *reader, deliveries, SettleAction::Ack).await;
    let after = Some(Duration::from_millis(10));
    settle(&mut *reader, retried, SettleAction::Retry { after }).await;
    let again = take(&mut *reader, 1).await;
    assert_eq!(
        (text(&again[0].message), again[0].attempt),
        ("2".to_owned(), Some(2))
    );
}

#[tokio::test]
async fn a_bounded_read_ends_with_what_was_there_when_it_began() {
    let test = Test::shared().await;
    test.write(&test.messages(250)).await;
    let mut options = test.options();
    options.driver.set("bounded", "true");
    let mut reader = test.read(&options).await;
    test.write(&[test.message("later")]).await;
    let mut deliveries = take(&mut *reader, 250).await;
    let last = deliveries.split_off(249);
    settle(&mut *reader, deliveries, SettleAction::Ack).await;
    // It is not over before all is settled.
    settle(&mut *reader, last, SettleAction::Release).await;
    assert_eq!(handle(&mut *reader, 1).await, ["249"]);
    let mut out = Vec::new();
    let end = reader.receive(NonZeroUsize::MIN, &mut out).await.unwrap();
    assert_eq!((end, out.len()), (Received::End, 0));

    let nothing = Test::at(&test.url);
    let mut empty = empty_read(&nothing).await;
    assert_eq!(
        empty.receive(NonZeroUsize::MIN, &mut out).await.unwrap(),
        Received::End
    );
}

async fn empty_read(test: &Test) -> Box<dyn Subscription> {
    let mut options = test.options();
    options.driver.insert(RedisOptions::new().bounded(true));
    test.read(&options).await
}

#[tokio::test]
async fn members_that_acknowledge_and_members_that_do_not_are_kept_apart() {
    let test = Test::shared().await;
    drop(test.member().await);
    let mut options = test.in_group();
    options.driver.set("no_ack", "true");
    let driver = test.driver();
    let refused = driver.reader().subscribe(&options).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    assert!(refused.to_string().contains("no_ack"), "{refused}");
    assert!(driver.delete_group(&test.stream, GROUP).await.unwrap());
    driver.reader().subscribe(&options).await.unwrap();
}

#[tokio::test]
async fn a_bounded_read_is_for_readers_without_a_group() {
    let test = Test::shared().await;
    let mut options = test.in_group();
    options.driver.set("bounded", "true");
    let refused = test.driver().reader().subscribe(&options).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_snapshot_and_reading_on_from_it_give_everything_once() {
    let test = Test::shared().await;
    test.write(&test.messages(5)).await;
    let driver = test.driver();
    let mut data = Vec::new();
    let mut from = EntryId::MIN;
    loop {
        let page = driver
            .range(&test.stream, from..=EntryId::MAX, 2)
            .await
            .unwrap();
        data.extend(page.iter().map(|(_, message)| text(message)));
        let Some((last, _)) = page.last() else { break };
        from = last.next();
    }
    assert_eq!(data, numbers(0..5));
    test.write(&[test.message("5")]).await;
    let on = StartFrom::Position(from.to_string());
    let mut reader = test.read(&test.options().start_from(on)).await;
    assert_eq!(handle(&mut *reader, 1).await, ["5"]);
}

#[tokio::test]
async fn entries_are_removed_and_streams_and_groups_deleted() {
    let test = Test::shared().await;
    test.write(&test.messages(3)).await;
    let driver = test.driver();
    let all = EntryId::MIN..=EntryId::MAX;
    let entries = driver.range(&test.stream, all.clone(), 10).await.unwrap();
    assert_eq!(driver.remove(&test.stream, &[]).await.unwrap(), 0);
    let removed = driver
        .remove(&test.stream, &[entries[1].0, EntryId::MIN])
        .await;
    assert_eq!(removed.unwrap(), 1);
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 2).await, ["0", "2"]);
    reader.close().await.unwrap();
    assert!(driver.delete_group(&test.stream, GROUP).await.unwrap());
    assert!(!driver.delete_group(&test.stream, GROUP).await.unwrap());
    assert!(driver.delete_stream(&test.stream).await.unwrap());
    assert!(!driver.delete_stream(&test.stream).await.unwrap());
    let mut keys = Cmd::new();
    keys.arg("KEYS").arg(format!("*{}*", test.stream));
    let left: Vec<String> = test.ask(&keys).await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_stream_that_must_be_made_is_missed_until_then() {
    let test = Test::shared().await;
    let driver = test.builder().create_streams(false).build().unwrap();
    let at = SystemTime::now() + Duration::from_secs(60);
    let writer = driver.writer();
    for write in [
        writer.write(&test.messages(1)).await,
        writer.write_at(&test.messages(1), at).await,
    ] {
        assert_eq!(
            write.unwrap_err().failures()[0].1.kind(),
            ErrorKind::NotFound
        );
    }
    for options in [test.options(), test.in_group()] {
        let refused = driver.reader().subscribe(&options).await;
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::NotFound);
    }
    driver.create_stream(&test.stream).await.unwrap();
    driver.create_stream(&test.stream).await.unwrap();
    writer.write(&test.messages(1)).await.unwrap();
    let mut reader = driver.reader().subscribe(&test.in_group()).await.unwrap();
    assert_eq!(handle(&mut *reader, 1).await, ["0"]);
}

#[tokio::test]
async fn a_message_is_written_once_under_its_id() {
    let test = Test::shared().await;
    let window = Duration::from_millis(700);
    let driver = test
        .builder()
        .idempotent(window)
        .max_len(1)
        .trim_unread(true);
    let writer = driver.build().unwrap().writer();
    let message = test.message("x");
    writer
        .write(&[message.clone(), message.clone()])
        .await
        .unwrap();
    // It is known also when its entry is gone.
    let mut del = Cmd::new();
    del.arg("XTRIM").arg(test.key()).arg("MAXLEN").arg(0);
    assert_eq!(test.ask::<u32>(&del).await, 1);
    writer.write(std::slice::from_ref(&message)).await.unwrap();
    let changed = message.to_builder().data("y").build().unwrap();
    let other = test.message("z");
    let error = writer.write(&[changed, other]).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [0]);
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::Conflict);
    assert!(!error.is_retryable());
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 1).await, ["z"]);
    // After the window it is forgotten.
    until("it is written again", async || {
        writer.write(std::slice::from_ref(&message)).await.unwrap();
        let mut len = Cmd::new();
        len.arg("XLEN").arg(test.key());
        test.ask::<u32>(&len).await == 2
    })
    .await;
}

#[tokio::test]
async fn settings_are_checked() {
    let zero = Duration::ZERO;
    let builder = || Redis::builder("redis://localhost");
    for bad in [
        builder().lease(Duration::from_millis(100)),
        builder()
            .lease(Duration::from_secs(1))
            .poll_interval(Duration::from_secs(1)),
        builder().poll_interval(zero),
        builder().tick(zero),
        builder().timeout(zero),
        builder().largest_message(0),
        builder().largest_message(1 << 30),
        builder().max_len(0),
        builder().trim_unread(true),
        builder().idempotent(zero),
        builder().max_scheduled(0),
        builder().time_to_live(streams_redis::TimeToLive::Sliding(zero)),
        builder().prefix("a b"),
    ] {
        assert_eq!(bad.build().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
