//! Servers and groups that go away, and what is no stream.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::Cmd;
use streams_core::{
    Backoff, Bus, Context, Driver as _, ErrorKind, Message, SettleAction, StartFrom,
};
use streams_services::Redis as Recipe;

use crate::support::{
    GROUP, Test, count_losses, handle, nothing_comes, numbers, pending, settle, take, text, until,
};

fn command(words: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words.split(' ').collect::<Vec<_>>());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_started_again_loses_nothing_that_was_answered() {
    count_losses();
    let (test, server) = Test::own(Recipe::new()).await;
    let mut reader = test.member().await;
    let writer = test.driver().writer();
    writer.write(&test.messages(10)).await.unwrap();
    let held = take(&mut *reader, 4).await;
    server.kill();
    let error = writer.write(&test.messages(1)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    server.restart().unwrap();
    server.wait_ready().unwrap();
    // The same reader and writer go on.
    until("it can be written", async || {
        writer.write(&test.messages(1)).await.is_ok()
    })
    .await;
    // The connection for this broke too: what failed is tried again, as the runner does.
    let mut settlements: Vec<_> = held.into_iter().map(|d| d.token.ack()).collect();
    until("it is settled", async || {
        match reader.settle(&mut settlements).await {
            Ok(report) => report.lost.is_empty(),
            Err(_) => false,
        }
    })
    .await;
    let data: HashSet<_> = handle(&mut *reader, 7).await.into_iter().collect();
    assert!(numbers(4..10).iter().all(|data_of| data.contains(data_of)));
    // Nor does it seem so to who looks what comes again, at the end of the stream.
    writer.write(&test.messages(1)).await.unwrap();
    for _ in 0..2 {
        let held = take(&mut *reader, 1).await;
        let after = Some(Duration::ZERO);
        settle(&mut *reader, held, SettleAction::Retry { after }).await;
    }
    assert_eq!(handle(&mut *reader, 1).await.len(), 1);
    assert_eq!(test.lost("trimmed"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_without_its_data_is_read_on_and_the_loss_is_counted() {
    count_losses();
    let (test, server) = Test::own(Recipe::new().forgetful()).await;
    let mut reader = test.member().await;
    let mut alone = test.read(&test.options()).await;
    let writer = test.driver().writer();
    writer.write(&test.messages(10)).await.unwrap();
    assert_eq!(handle(&mut *reader, 3).await, numbers(0..3));
    assert_eq!(handle(&mut *alone, 10).await, numbers(0..10));
    let mut other = test.member().await;
    assert_eq!(handle(&mut *other, 1).await, ["3"]);
    let held = take(&mut *reader, 2).await;
    server.kill();
    server.restart().unwrap();
    server.wait_ready().unwrap();
    // Reading goes on by itself; a stream that begins anew is read from its beginning.
    let after = test.messages(3);
    until("it can be written", async || {
        writer.write(&after).await.is_ok()
    })
    .await;
    assert_eq!(handle(&mut *reader, 3).await, numbers(0..3));
    assert_eq!(handle(&mut *alone, 3).await, numbers(0..3));
    nothing_comes(&mut *other).await;
    let lost = test.lost("server");
    assert!(
        (2..=7).contains(&lost),
        "two in flight, and four unread but for what the other has read since: {lost}"
    );
    let report = settle(&mut *reader, held, SettleAction::Ack).await;
    assert_eq!(report.lost.len(), 2, "it is told");
}

/// As a replica that takes the place of a master whose last entries it did not get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_without_its_last_entries_is_read_on_and_they_are_counted_once() {
    count_losses();
    let (test, server) = Test::own(Recipe::new().forgetful()).await;
    let writer = test.driver().writer();
    let (mut first, mut second) = (test.member().await, test.member().await);
    writer.write(&test.messages(10)).await.unwrap();
    let _: () = test.ask(&command("SAVE")).await;
    writer.write(&test.messages(5)).await.unwrap();
    // Both have seen how many there are.
    for reader in [&mut first, &mut second] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        handle(&mut **reader, 1).await;
    }
    server.kill();
    server.restart().unwrap();
    server.wait_ready().unwrap();
    let mut seen = HashSet::new();
    while seen.len() < 10 {
        seen.extend(handle(&mut *first, 1).await);
    }
    assert_eq!(seen, numbers(0..10).into_iter().collect());
    nothing_comes(&mut *second).await;
    nothing_comes(&mut *first).await;
    assert_eq!(
        test.lost("server"),
        5,
        "once, though both members found out"
    );
    second.close().await.unwrap();
    test.write(&test.messages(5)).await;
    assert_eq!(handle(&mut *first, 5).await, numbers(0..5));
    assert_eq!(test.lost("server"), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushing_all_while_reading_loses_what_was_there_and_nothing_after() {
    count_losses();
    let (test, _server) = Test::own(Recipe::new()).await;
    // `$` would pass over what is written before the group is there again.
    let mut reader = test
        .read(&test.in_group().start_from(StartFrom::Latest))
        .await;
    for round in 0..3 {
        test.write(&test.messages(5)).await;
        let held = take(&mut *reader, 2).await;
        let _: () = test.ask(&command("FLUSHALL")).await;
        test.write(&[test.message(&format!("after {round}"))]).await;
        let next = take(&mut *reader, 1).await;
        assert_eq!(text(&next[0].message), format!("after {round}"));
        assert!(
            settle(&mut *reader, next, SettleAction::Ack)
                .await
                .lost
                .is_empty()
        );
        assert_eq!(
            settle(&mut *reader, held, SettleAction::Ack)
                .await
                .lost
                .len(),
            2
        );
    }
    assert!(test.lost("server") >= 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_destroyed_begins_again_with_its_oldest_pending_entry() {
    let test = Test::shared().await;
    test.write(&test.messages(10)).await;
    let mut dead = test.member().await;
    assert_eq!(handle(&mut *dead, 2).await, numbers(0..2));
    // One that will never settle, and that the other member knows nothing of.
    take(&mut *dead, 1).await;
    drop(dead);
    let mut reader = test.member().await;
    let handled = take(&mut *reader, 3).await;
    settle(&mut *reader, handled, SettleAction::Ack).await;
    let held = take(&mut *reader, 1).await;
    let destroy = command(&format!("XGROUP DESTROY {} {GROUP}", test.key()));
    assert_eq!(test.ask::<u32>(&destroy).await, 1);
    let mut seen = HashSet::new();
    while seen.len() < 8 {
        seen.extend(handle(&mut *reader, 1).await);
    }
    assert_eq!(seen, numbers(2..10).into_iter().collect());
    assert_eq!(
        settle(&mut *reader, held, SettleAction::Ack)
            .await
            .lost
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_are_opened_anew() {
    let (test, _server) = Test::own(Recipe::new()).await;
    let mut reader = test.member().await;
    let writer = test.driver().writer();
    for round in 0..5 {
        until("it can be written", async || {
            writer
                .write(&[test.message(&round.to_string())])
                .await
                .is_ok()
        })
        .await;
        let delivery = take(&mut *reader, 1).await;
        let _: u32 = test
            .ask(&command("CLIENT KILL TYPE normal SKIPME yes"))
            .await;
        // The shared connection is gone too: an acknowledgement is tried again, as the runner does.
        let mut settlements: Vec<_> = delivery.into_iter().map(|d| d.token.ack()).collect();
        until("it is settled", async || {
            reader.settle(&mut settlements).await.is_ok()
        })
        .await;
        assert!(settlements.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_every_connection_is_killed_again_and_again() {
    const COUNT: usize = 3_000;
    let (test, _server) = Test::own(Recipe::new()).await;
    let once = test.builder().idempotent(Duration::from_secs(600));
    let bus = Bus::builder(once.build().unwrap()).build().unwrap();
    let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (written, handled) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (into, counted) = (seen.clone(), handled.clone());
    bus.subscribe_stream(&test.stream, move |message: Message, _: Context| {
        into.lock().unwrap().insert(text(&message));
        counted.fetch_add(1, Relaxed);
        async {}
    })
    .group(GROUP)
    .reconnect(Backoff::new(
        Duration::from_millis(10),
        Duration::from_millis(500),
    ))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let writing = async {
        let mut failed = 0;
        for batch in test.messages(COUNT).chunks(10) {
            // What may have been written is written again, under its id.
            while bus.publisher().write(batch).await.is_err() {
                failed += 1;
            }
            written.fetch_add(batch.len(), Relaxed);
        }
        failed
    };
    let killing = async {
        let mut server = test.raw().await;
        let mut killed = 0;
        let all_seen = || seen.lock().unwrap().len() == COUNT;
        while !all_seen() {
            let before = (written.load(Relaxed), handled.load(Relaxed));
            // More than once, so that what is being opened anew is killed too.
            for _ in 0..3 {
                let kill = command("CLIENT KILL TYPE normal SKIPME yes");
                killed += kill.query_async::<u32>(&mut server).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // However slow the machine, something gets through before the next.
            let went_on = || {
                let writes = written.load(Relaxed);
                (writes == COUNT || writes > before.0) && handled.load(Relaxed) > before.1
            };
            while !all_seen() && !went_on() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        killed
    };
    let both = async { tokio::join!(writing, killing) };
    let (failed, killed) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap_or_else(|_| panic!("{} of {COUNT} came", seen.lock().unwrap().len()));
    assert!(
        failed > 0 && killed > 20,
        "{failed} writes, {killed} connections"
    );
    assert_eq!(
        *seen.lock().unwrap(),
        numbers(0..COUNT).into_iter().collect()
    );
    let length = command(&format!("XLEN {}", test.key()));
    assert_eq!(
        test.ask::<usize>(&length).await,
        COUNT,
        "each was written once"
    );
    // What was handled on a connection that was killed before it was acknowledged comes once more.
    until("all is acknowledged", async || pending(&test).await == 0).await;
    bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(pending(&test).await, 0);
}

#[tokio::test]
async fn a_full_server_tells_the_publisher_and_loses_nothing() {
    let (test, _server) = Test::own(Recipe::new().setting("maxmemory-policy", "noeviction")).await;
    let writer = test.driver().writer();
    let mut reader = test.member().await;
    writer.write(&test.messages(5)).await.unwrap();
    let mut deliveries = take(&mut *reader, 3).await;
    let _: () = test.ask(&command("CONFIG SET maxmemory 1")).await;
    let error = writer.write(&test.messages(3)).await.unwrap_err();
    assert_eq!(error.indices().count(), 3);
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::Full);
    assert!(error.is_retryable());
    let later = std::time::SystemTime::now() + Duration::from_secs(60);
    let error = writer.write_at(&test.messages(1), later).await.unwrap_err();
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::Full);
    // What is there can be handled, given back and had again, so that there is room again.
    let retried = deliveries.split_off(2);
    assert!(
        settle(&mut *reader, deliveries, SettleAction::Ack)
            .await
            .lost
            .is_empty()
    );
    settle(&mut *reader, retried, SettleAction::Retry { after: None }).await;
    let mut rest = handle(&mut *reader, 3).await;
    rest.sort();
    assert_eq!(rest, numbers(2..5));
    let _: () = test.ask(&command("CONFIG SET maxmemory 0")).await;
    writer.write(&[test.message("room")]).await.unwrap();
    assert_eq!(handle(&mut *reader, 1).await, ["room"]);
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_refused() {
    let test = Test::shared().await;
    let _: () = test
        .ask(&command(&format!("SET {} text", test.key())))
        .await;
    let driver = test.driver();
    let error = driver.writer().write(&test.messages(2)).await.unwrap_err();
    assert_eq!(error.failures()[1].1.kind(), ErrorKind::InvalidConfig);
    assert!(!error.is_retryable());
    for options in [test.options(), test.in_group()] {
        let refused = driver.reader().subscribe(&options).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::InvalidConfig, "{refused}");
    }
    let refused = driver.create_stream(&test.stream).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_key_that_turns_into_something_else_ends_its_readers() {
    let test = Test::shared().await;
    let mut reader = test.member().await;
    let _: () = test
        .ask(&command(&format!("SET {} text", test.key())))
        .await;
    let mut out = Vec::new();
    let receive = reader.receive(std::num::NonZeroUsize::MIN, &mut out);
    let error = tokio::time::timeout(Duration::from_secs(20), receive)
        .await
        .unwrap();
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidConfig);
}
