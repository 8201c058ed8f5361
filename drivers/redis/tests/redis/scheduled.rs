//! Messages for later.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use redis::Cmd;
use streams_core::{Driver as _, ErrorKind, MessageId, StreamName};

use crate::support::{Test, handle, nothing_comes, numbers, text, until};

fn in_ms(millis: u64) -> SystemTime {
    SystemTime::now() + Duration::from_millis(millis)
}

#[tokio::test]
async fn what_waits_is_listed_in_the_order_of_its_times_and_can_be_cancelled() {
    let test = Test::shared().await;
    let writer = test.driver().writer();
    let messages = test.messages(3);
    let far = in_ms(3_600_000);
    let minute = Duration::from_secs(60);
    for (message, due) in messages.iter().zip([far + 2 * minute, far, far + minute]) {
        writer
            .write_at(std::slice::from_ref(message), due)
            .await
            .unwrap();
    }
    let stream = StreamName::new(&test.stream).unwrap();
    let listed = writer.scheduled(&stream, 10).await.unwrap();
    let data: Vec<_> = listed.iter().map(|one| text(&one.message)).collect();
    assert_eq!(data, ["1", "2", "0"]);
    assert_eq!(listed[0].message, messages[1], "all of it");
    assert!(listed[0].due >= far && listed[0].due < far + Duration::from_millis(2));
    assert_eq!(writer.scheduled(&stream, 1).await.unwrap().len(), 1);
    assert!(writer.scheduled(&stream, 0).await.unwrap().is_empty());
    assert!(writer.cancel(&stream, messages[2].id()).await.unwrap());
    assert!(!writer.cancel(&stream, messages[2].id()).await.unwrap());
    assert!(
        !writer
            .cancel(&stream, &MessageId::new("none").unwrap())
            .await
            .unwrap()
    );
    assert_eq!(writer.scheduled(&stream, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn scheduling_again_under_the_same_id_moves_the_message() {
    let test = Test::shared().await;
    let writer = test.driver().writer();
    let message = [test.message("x")];
    writer.write_at(&message, in_ms(3_600_000)).await.unwrap();
    writer.write_at(&message, in_ms(50)).await.unwrap();
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 1).await, ["x"]);
    let stream = StreamName::new(&test.stream).unwrap();
    assert!(writer.scheduled(&stream, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn messages_of_one_time_come_in_the_order_in_which_they_were_scheduled() {
    let test = Test::shared().await;
    let due = in_ms(200);
    test.driver()
        .writer()
        .write_at(&test.messages(50), due)
        .await
        .unwrap();
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 50).await, numbers(0..50));
    assert!(SystemTime::now() >= due);
}

#[tokio::test]
async fn no_more_are_scheduled_than_may_be() {
    let test = Test::shared().await;
    let writer = test.builder().max_scheduled(2).build().unwrap().writer();
    let messages = test.messages(3);
    let error = writer
        .write_at(&messages, in_ms(3_600_000))
        .await
        .unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [2]);
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::Full);
    // One that waits already may be moved, and what is due is not scheduled.
    writer
        .write_at(&messages[..1], in_ms(3_600_000))
        .await
        .unwrap();
    writer
        .write_at(&messages[2..], SystemTime::UNIX_EPOCH)
        .await
        .unwrap();
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 1).await, ["2"]);
}

#[tokio::test]
async fn what_was_scheduled_by_a_process_that_is_gone_comes_all_the_same() {
    let test = Test::shared().await;
    {
        let driver = test.driver();
        driver
            .writer()
            .write_at(&test.messages(2), in_ms(300))
            .await
            .unwrap();
    }
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 2).await, numbers(0..2));
}

#[tokio::test]
async fn a_writer_moves_what_it_scheduled_though_nobody_reads_here() {
    let test = Test::shared().await;
    let driver = test.driver();
    driver
        .writer()
        .write_at(&test.messages(2), in_ms(100))
        .await
        .unwrap();
    until("they are in the stream", async || {
        let mut len = Cmd::new();
        len.arg("XLEN").arg(test.key());
        test.ask::<u32>(&len).await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_movers_lose_nothing_and_do_nothing_twice_and_none_is_early() {
    const COUNT: usize = 5_000;
    let test = Test::shared().await;
    let due = in_ms(1_500);
    let writer = test.driver().writer();
    for batch in test.messages(COUNT).chunks(500) {
        writer.write_at(batch, due).await.unwrap();
    }
    assert!(SystemTime::now() < due, "too slow to tell");
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(test.member().await);
    }
    let reading = readers
        .iter_mut()
        .map(async |reader| handle(&mut **reader, COUNT / 8).await);
    let mut all: Vec<_> = join_all(reading).await.into_iter().flatten().collect();
    assert!(SystemTime::now() >= due);
    all.extend(handle(&mut *readers[0], COUNT / 2).await);
    let data: HashSet<_> = all.into_iter().collect();
    assert_eq!(data.len(), COUNT);
    let mut len = Cmd::new();
    len.arg("XLEN").arg(test.key());
    assert_eq!(test.ask::<usize>(&len).await, COUNT, "none twice");
    nothing_comes(&mut *readers[1]).await;
}
