//! Streams that are kept short, and for a time.

use std::time::{Duration, SystemTime};

use redis::Cmd;
use streams_core::{Driver as _, SettleAction, StreamName};
use streams_redis::TimeToLive;

use crate::support::{
    GROUP, Test, Warnings, count_losses, handle, nothing_comes, numbers, settle, take, until,
};

async fn length(test: &Test) -> usize {
    let mut len = Cmd::new();
    len.arg("XLEN").arg(test.key());
    test.ask(&len).await
}

#[tokio::test]
async fn what_every_group_is_done_with_is_removed_and_nothing_else() {
    let test = Test::shared().await;
    let (warnings, _listening) = Warnings::listen();
    let writer = test.builder().max_len(100).build().unwrap().writer();
    let mut reader = test.member().await;
    writer.write(&test.messages(500)).await.unwrap();
    writer.write(&test.messages(10)).await.unwrap();
    assert_eq!(length(&test).await, 510, "nothing is handled");
    let behind = warnings.with("is behind");
    assert_eq!(behind.len(), 1, "{behind:?}");
    assert!(
        behind[0].contains(&test.stream) && behind[0].contains(GROUP),
        "{behind:?}"
    );
    assert_eq!(handle(&mut *reader, 300).await, numbers(0..300));
    writer.write(&test.messages(10)).await.unwrap();
    assert_eq!(length(&test).await, 220, "what is handled is gone");
    let rest = take(&mut *reader, 220).await;
    writer.write(&test.messages(10)).await.unwrap();
    assert_eq!(length(&test).await, 230, "what is pending stays");
    settle(&mut *reader, rest, SettleAction::Ack).await;
    writer.write(&test.messages(10)).await.unwrap();
    assert_eq!(length(&test).await, 100, "no more than it is to be");
    assert_eq!(handle(&mut *reader, 20).await.len(), 20);
    nothing_comes(&mut *reader).await;
    assert_eq!(test.lost("trimmed"), 0);
}

#[tokio::test]
async fn without_a_group_it_is_a_log_of_that_length() {
    let test = Test::shared().await;
    let writer = test.builder().max_len(50).build().unwrap().writer();
    for batch in test.messages(5_000).chunks(100) {
        writer.write(batch).await.unwrap();
    }
    assert_eq!(length(&test).await, 50);
}

#[tokio::test]
async fn what_is_unread_is_counted_and_warned_of_when_it_is_trimmed_on_demand() {
    count_losses();
    let (warnings, _listening) = Warnings::listen();
    let test = Test::shared().await;
    let driver = test
        .builder()
        .max_len(100)
        .trim_unread(true)
        .build()
        .unwrap();
    let mut reader = test.member().await;
    for batch in test.messages(1_000).chunks(100) {
        driver.writer().write(batch).await.unwrap();
    }
    // Whole nodes of the stream are removed, of 100 entries each.
    let left = length(&test).await;
    assert!((100..=300).contains(&left), "{left}");
    let data = handle(&mut *reader, left).await;
    assert_eq!(data, numbers(1_000 - left..1_000));
    let lost = u64::try_from(1_000 - left).unwrap();
    until("all are counted once", async || {
        test.lost("trimmed") == lost
    })
    .await;
    nothing_comes(&mut *reader).await;
    assert_eq!(test.lost("trimmed"), lost);
    let gone = warnings.with("entries are gone");
    assert!(!gone.is_empty(), "nothing was said");
    for one in gone {
        assert!(
            one.contains(&test.stream) && one.contains("trimmed"),
            "{one}"
        );
    }
}

#[tokio::test]
async fn what_others_trim_is_counted_too() {
    count_losses();
    let test = Test::shared().await;
    let mut reader = test.member().await;
    test.write(&test.messages(20)).await;
    // Two are pending and to come again, and three are unread, when another program trims them.
    let pending = take(&mut *reader, 2).await;
    let mut trim = Cmd::new();
    trim.arg("XTRIM").arg(test.key()).arg("MAXLEN").arg(15);
    assert_eq!(test.ask::<u32>(&trim).await, 5);
    settle(&mut *reader, pending, SettleAction::Retry { after: None }).await;
    assert_eq!(handle(&mut *reader, 15).await, numbers(5..20));
    // It looks around while it waits for more.
    nothing_comes(&mut *reader).await;
    assert_eq!(test.lost("trimmed"), 5);
}

#[tokio::test]
async fn a_stream_lives_as_long_as_it_is_to() {
    let test = Test::shared().await;
    let ttl = |test: &Test| {
        let mut ttl = Cmd::new();
        ttl.arg("PTTL").arg(test.key());
        ttl
    };
    let hour = Duration::from_secs(3600);
    let absolute = test
        .builder()
        .time_to_live(TimeToLive::Absolute(hour))
        .build()
        .unwrap();
    absolute.writer().write(&test.messages(1)).await.unwrap();
    let mut shorten = Cmd::new();
    shorten.arg("PEXPIRE").arg(test.key()).arg(60_000);
    let _: u32 = test.ask(&shorten).await;
    absolute.writer().write(&test.messages(1)).await.unwrap();
    assert!(
        test.ask::<i64>(&ttl(&test)).await <= 60_000,
        "from its first entry on"
    );
    let sliding = test
        .builder()
        .time_to_live(TimeToLive::Sliding(hour))
        .build()
        .unwrap();
    sliding.writer().write(&test.messages(1)).await.unwrap();
    assert!(
        test.ask::<i64>(&ttl(&test)).await > 3_000_000,
        "from its last entry on"
    );
    let short = TimeToLive::Sliding(Duration::from_millis(100));
    let short = test.builder().time_to_live(short).build().unwrap();
    short.writer().write(&test.messages(1)).await.unwrap();
    until("it is gone", async || length(&test).await == 0).await;
}

#[tokio::test]
async fn what_was_scheduled_is_kept_short_and_for_a_time_too() {
    let test = Test::shared().await;
    let hour = TimeToLive::Sliding(Duration::from_secs(3600));
    let driver = test
        .builder()
        .max_len(50)
        .time_to_live(hour)
        .build()
        .unwrap();
    let soon = SystemTime::now() + Duration::from_millis(50);
    let writer = driver.writer();
    writer.write_at(&test.messages(1_000), soon).await.unwrap();
    let stream = StreamName::new(&test.stream).unwrap();
    until("all are due", async || {
        writer.scheduled(&stream, 1).await.unwrap().is_empty()
    })
    .await;
    until("it is short", async || length(&test).await == 50).await;
    let mut ttl = Cmd::new();
    ttl.arg("PTTL").arg(test.key());
    assert!(test.ask::<i64>(&ttl).await > 0, "it lives for an hour");
}

#[tokio::test]
async fn what_is_kept_of_the_groups_of_a_stream_goes_with_it() {
    let test = Test::shared().await;
    let short = TimeToLive::Absolute(Duration::from_millis(1_500));
    let driver = test.builder().time_to_live(short).build().unwrap();
    driver.writer().write(&test.messages(2)).await.unwrap();
    let mut reader = test.member().await;
    let held = take(&mut *reader, 1).await;
    let after = Some(Duration::from_millis(2_000));
    settle(&mut *reader, held, SettleAction::Retry { after }).await;
    assert_eq!(handle(&mut *reader, 1).await, ["1"]);
    nothing_comes(&mut *reader).await;
    drop(reader);
    let mut keys = Cmd::new();
    keys.arg("KEYS").arg(format!("*{}*", test.stream));
    assert!(test.ask::<Vec<String>>(&keys).await.len() > 1);
    until("nothing is left", async || {
        test.ask::<Vec<String>>(&keys).await.is_empty()
    })
    .await;
}
