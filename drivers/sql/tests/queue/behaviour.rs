//! What the kit does not ask.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use streams_core::{
    Delivery, Driver as _, ErrorKind, Message, MessageId, ReadOptions, Received, SettleAction,
    StartFrom, StreamName, Subscription,
};
use streams_sql::{SqlQueue, SqlQueueOptions};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Test, TestDatabase, message};

on_each_database!(
    the_first_group_takes_what_was_written_before_it,
    a_late_commit_is_not_passed_over,
    tables_must_be_there_in_this_version,
    a_key_has_one_reader_at_a_time,
    what_waits_behind_a_key_comes_in_order,
    what_waits_is_shown_when_the_last_of_its_key_is_done,
    what_waits_behind_a_message_is_taken_with_it,
    many_readers_share_few_keys,
    a_deleted_group_ends_its_readers,
    old_messages_go_when_they_were_kept_long_enough,
    no_more_are_scheduled_than_may_be,
    settings_are_checked,
    names_of_tables_are_the_users,
);

const STREAM: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(20);

async fn queue<DB: TestDatabase>(test: &Test<DB>) -> SqlQueue<DB> {
    let queue = SqlQueue::builder(test.pool.clone()).build().unwrap();
    queue.migrate().await.unwrap();
    queue
}

async fn read<DB: TestDatabase>(queue: &SqlQueue<DB>, group: &str) -> Box<dyn Subscription> {
    let options = ReadOptions::new(STREAM).unwrap().group(group).unwrap();
    queue.reader().subscribe(&options).await.unwrap()
}

async fn write<DB: TestDatabase>(queue: &SqlQueue<DB>, messages: &[Message]) {
    queue.writer().write(messages).await.unwrap();
}

/// So many messages, however they come.
async fn take(reader: &mut dyn Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let max = NonZeroUsize::new(count - all.len()).unwrap();
        let received = timeout(PATIENCE, reader.receive(max, &mut all)).await;
        let received = received.unwrap_or_else(|_| panic!("{} of {count} came", all.len()));
        assert_eq!(received.unwrap(), Received::Deliveries);
    }
    all
}

/// That there is nothing.
async fn nothing(reader: &mut dyn Subscription) {
    let mut out = Vec::new();
    let receive = reader.receive(NonZeroUsize::MIN, &mut out);
    let received = timeout(Duration::from_millis(200), receive).await;
    assert!(received.is_err(), "{received:?}");
}

async fn settle(reader: &mut dyn Subscription, deliveries: Vec<Delivery>, action: SettleAction) {
    let settlements = deliveries.into_iter().map(|one| one.token.settle(action));
    let report = reader.settle(&mut settlements.collect()).await.unwrap();
    assert!(report.lost.is_empty());
}

fn numbers(deliveries: &[Delivery]) -> Vec<usize> {
    let number = |one: &Delivery| std::str::from_utf8(one.message.data()).unwrap().parse();
    deliveries.iter().map(|one| number(one).unwrap()).collect()
}

async fn the_first_group_takes_what_was_written_before_it<DB: TestDatabase>(test: Test<DB>) {
    let queue = queue(&test).await;
    write(&queue, &[message(STREAM, "a", 1), message(STREAM, "a", 2)]).await;
    let mut first = read(&queue, "first").await;
    let mut second = read(&queue, "second").await;
    write(&queue, &[message(STREAM, "a", 3)]).await;
    let of_first = take(&mut *first, 3).await;
    assert_eq!(numbers(&of_first), [1, 2, 3]);
    let of_second = take(&mut *second, 1).await;
    assert_eq!(numbers(&of_second), [3]);
    settle(&mut *first, of_first, SettleAction::Ack).await;
    settle(&mut *second, of_second, SettleAction::Ack).await;
    assert_eq!(test.count("streams_queue_messages").await, 0);
}

async fn a_late_commit_is_not_passed_over<DB: TestDatabase>(test: Test<DB>) {
    let queue = queue(&test).await;
    let mut reader = read(&queue, "g").await;
    let group = test.rows("SELECT id FROM streams_queue_groups").await[0][0].clone();
    // Written first and committed last. In SQLite nobody else writes meanwhile.
    let insert = format!(
        "INSERT INTO streams_queue_messages (group_id, ready_at, message_id, time, raw_data) \
         VALUES ({group}, 1, 'late', 1, {})",
        DB::literal(b"77")
    );
    let mut late = test.pool.begin().await.unwrap();
    DB::run_on(&mut late, &insert).await.unwrap();
    if DB::NAME != "SQLite" {
        for number in 0..20 {
            write(&queue, &[message(STREAM, "a", number)]).await;
        }
        let before = take(&mut *reader, 20).await;
        settle(&mut *reader, before, SettleAction::Ack).await;
    }
    late.commit().await.unwrap();
    // It is none of ours, and its data comes as it is.
    let deliveries = take(&mut *reader, 1).await;
    assert_eq!(deliveries[0].message.id().as_str(), "late");
    assert_eq!(numbers(&deliveries), [77]);
    settle(&mut *reader, deliveries, SettleAction::Ack).await;
    nothing(&mut *reader).await;
}

async fn tables_must_be_there_in_this_version<DB: TestDatabase>(test: Test<DB>) {
    let queue = || SqlQueue::builder(test.pool.clone()).build().unwrap();
    let options = ReadOptions::new(STREAM).unwrap().group("g").unwrap();
    for (version, kind) in [
        (None, ErrorKind::NotFound),
        (Some(0), ErrorKind::InvalidConfig),
        (Some(2), ErrorKind::InvalidConfig),
    ] {
        if let Some(version) = version {
            queue().migrate().await.unwrap();
            let set = format!("UPDATE streams_schema SET version = {version}");
            test.execute(&set).await;
        }
        let reader = queue().reader().subscribe(&options).await;
        let Err(error) = reader else {
            panic!("subscribed to tables of version {version:?}")
        };
        assert_eq!(error.kind(), kind, "{error}");
        let written = queue().writer().write(&[message(STREAM, "a", 1)]).await;
        let (_, error) = &written.unwrap_err().into_failures()[0];
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.is_retryable());
        if version == Some(2) {
            let error = queue().migrate().await.unwrap_err();
            assert!(error.to_string().contains("newer"), "{error}");
        }
    }
    test.execute("DROP TABLE streams_queue_messages").await;
    test.execute("UPDATE streams_schema SET version = 1").await;
    let written = queue().writer().write(&[message(STREAM, "a", 1)]).await;
    let error = written.unwrap_err().into_error();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("migrate"), "{error}");
}

async fn a_key_has_one_reader_at_a_time<DB: TestDatabase>(test: Test<DB>) {
    let queue = queue(&test).await;
    let (mut one, mut other) = (read(&queue, "g").await, read(&queue, "g").await);
    let messages = [("a", 1), ("a", 2), ("a", 3), ("b", 4)];
    write(&queue, &messages.map(|(key, n)| message(STREAM, key, n))).await;
    let mut first = take(&mut *one, 2).await;
    assert_eq!(numbers(&first), [1, 2]);
    let of_b = take(&mut *other, 1).await;
    assert_eq!(numbers(&of_b), [4], "the key `a` is another's");
    nothing(&mut *other).await;
    // The first comes again, and the other reader must wait for who still has the second.
    let second = first.pop().unwrap();
    settle(&mut *one, first, SettleAction::Retry { after: None }).await;
    nothing(&mut *other).await;
    settle(&mut *one, vec![second], SettleAction::Release).await;
    let again = take(&mut *other, 2).await;
    assert_eq!(numbers(&again), [1, 2]);
    assert_eq!(again[0].attempt, Some(2), "a retry counts");
    assert_eq!(again[1].attempt, Some(1), "a release does not");
    settle(&mut *other, again, SettleAction::Ack).await;
    let last = take(&mut *one, 1).await;
    assert_eq!(numbers(&last), [3]);
}

async fn what_waits_behind_a_key_comes_in_order<DB: TestDatabase>(test: Test<DB>) {
    const COUNT: usize = 300;
    let queue = queue(&test).await;
    let mut readers = [read(&queue, "g").await, read(&queue, "g").await];
    write(&queue, &[message(STREAM, "a", 0)]).await;
    let mut held = take(&mut *readers[0], 1).await;
    // More than are looked for at once, of one key and then of many.
    let of_a = (1..COUNT).map(|n| message(STREAM, "a", n));
    write(&queue, &of_a.collect::<Vec<_>>()).await;
    nothing(&mut *readers[1]).await;
    let behind = "SELECT count(*) FROM streams_queue_messages WHERE behind IS NOT NULL";
    assert_ne!(
        test.rows(behind).await[0][0],
        "0",
        "they are out of the way"
    );
    // In turns, and with retries.
    let mut seen = vec![0];
    for turn in 1.. {
        let reader = &mut *readers[(turn - 1) % 2];
        settle(reader, held, SettleAction::Ack).await;
        if seen.len() == COUNT {
            break;
        }
        let reader = &mut *readers[turn % 2];
        held = take(reader, 1).await;
        if turn % 3 == 0 {
            let after = Some(Duration::from_millis(5));
            settle(reader, held, SettleAction::Retry { after }).await;
            held = take(reader, 1).await;
        }
        let more = COUNT - seen.len() - 1;
        if let Some(max) = NonZeroUsize::new(more.min(50)) {
            let _ = reader.try_receive(max, &mut held);
        }
        seen.extend(numbers(&held));
    }
    assert!(seen.is_sorted() && seen.len() == COUNT, "{seen:?}");
    assert_eq!(test.count("streams_queue_messages").await, 0);
}

async fn what_waits_is_shown_when_the_last_of_its_key_is_done<DB: TestDatabase>(test: Test<DB>) {
    const BEHIND: &str = "SELECT count(*) FROM streams_queue_messages WHERE behind IS NOT NULL";
    let queue = queue(&test).await;
    let (mut one, mut other) = (read(&queue, "g").await, read(&queue, "g").await);
    let messages = [("a", 1), ("a", 2), ("a", 3), ("a", 4)];
    write(&queue, &messages.map(|(key, n)| message(STREAM, key, n))).await;
    let mut first = take(&mut *one, 2).await;
    nothing(&mut *other).await;
    assert_eq!(test.rows(BEHIND).await[0][0], "2");
    let second = first.split_off(1);
    settle(&mut *one, first, SettleAction::Ack).await;
    assert_eq!(test.rows(BEHIND).await[0][0], "2", "the second is in hand");
    settle(&mut *one, second, SettleAction::Ack).await;
    assert_eq!(test.rows(BEHIND).await[0][0], "0");
    assert_eq!(numbers(&take(&mut *other, 2).await), [3, 4]);
}

async fn what_waits_behind_a_message_is_taken_with_it<DB: TestDatabase>(test: Test<DB>) {
    let queue = queue(&test).await;
    let (mut one, mut other) = (read(&queue, "g").await, read(&queue, "g").await);
    let messages = [("a", 1), ("a", 2), ("a", 3)];
    write(&queue, &messages.map(|(key, n)| message(STREAM, key, n))).await;
    let first = take(&mut *one, 1).await;
    nothing(&mut *other).await;
    settle(&mut *one, first, SettleAction::Release).await;
    // No other reader has any of the key now: this one may have all of it in hand.
    assert_eq!(numbers(&take(&mut *other, 3).await), [1, 2, 3]);
}

/// Far more wait behind few keys than are looked at together.
async fn many_readers_share_few_keys<DB: TestDatabase>(test: Test<DB>) {
    const COUNT: usize = 2000;
    const KEYS: usize = 10;
    let queue = queue(&test).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(read(&queue, "g").await);
    }
    let messages = (0..COUNT).map(|n| message(STREAM, &(n % KEYS).to_string(), n));
    let messages: Vec<_> = messages.collect();
    for batch in messages.chunks(200) {
        write(&queue, batch).await;
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut reading = JoinSet::new();
    for mut reader in readers {
        let seen = seen.clone();
        reading.spawn(async move {
            while seen.lock().unwrap().len() < COUNT {
                let mut out = Vec::new();
                let max = NonZeroUsize::new(64).unwrap();
                reader.receive(max, &mut out).await.unwrap();
                seen.lock().unwrap().extend(numbers(&out));
                settle(&mut *reader, out, SettleAction::Ack).await;
            }
        });
    }
    // The others wait for more, and are dropped.
    let done = timeout(PATIENCE, reading.join_next()).await;
    done.expect("all come").unwrap().unwrap();
    reading.shutdown().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), COUNT);
    for key in 0..KEYS {
        let of_key = seen.iter().filter(|n| *n % KEYS == key);
        assert!(of_key.is_sorted(), "key {key}");
    }
}

async fn a_deleted_group_ends_its_readers<DB: TestDatabase>(test: Test<DB>) {
    let queue = queue(&test).await;
    let mut reader = read(&queue, "g").await;
    write(&queue, &[message(STREAM, "a", 1)]).await;
    assert!(queue.delete_group(STREAM, "g").await.unwrap());
    assert!(!queue.delete_group(STREAM, "g").await.unwrap());
    assert_eq!(test.count("streams_queue_messages").await, 0);
    let mut out = Vec::new();
    let receive = reader.receive(NonZeroUsize::MIN, &mut out);
    let error = timeout(PATIENCE, receive).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // A stream that another process deleted is made anew.
    let another = SqlQueue::builder(test.pool.clone()).build().unwrap();
    assert!(another.delete_stream(STREAM).await.unwrap());
    let error = queue.writer().write(&[message(STREAM, "a", 2)]).await;
    assert!(error.unwrap_err().is_retryable());
    write(&queue, &[message(STREAM, "a", 2)]).await;
    let mut reader = read(&queue, "g").await;
    assert_eq!(numbers(&take(&mut *reader, 1).await), [2]);
}

async fn old_messages_go_when_they_were_kept_long_enough<DB: TestDatabase>(test: Test<DB>) {
    queue(&test).await;
    let queue = || {
        let queue = SqlQueue::builder(test.pool.clone());
        queue.retention(Duration::from_millis(1)).build().unwrap()
    };
    let writer = queue().writer();
    for number in 0..3 {
        writer.write(&[message(STREAM, "a", number)]).await.unwrap();
    }
    assert_eq!(
        test.count("streams_queue_messages").await,
        3,
        "what nobody has had is not deleted"
    );
    let start = &StartFrom::Earliest;
    queue().create_group(STREAM, "g", start).await.unwrap();
    assert_eq!(test.count("streams_queue_messages").await, 6);
    // The first write of a writer looks for what may go. Its own message is kept until the next.
    let kept = "SELECT count(*) FROM streams_queue_messages WHERE group_id < 0";
    let cleaned = async {
        while test.rows(kept).await[0][0] != "1" {
            test.execute("DELETE FROM streams_queue_messages WHERE message_id = 'probe'")
                .await;
            let probe = message(STREAM, "a", 9).to_builder();
            let probe = probe.id(MessageId::new("probe").unwrap()).build().unwrap();
            queue().writer().write(&[probe]).await.unwrap();
        }
    };
    timeout(PATIENCE, cleaned).await.expect("old messages go");
    let waiting = "SELECT count(*) FROM streams_queue_messages \
                   WHERE group_id > 0 AND message_id <> 'probe'";
    assert_eq!(test.rows(waiting).await[0][0], "3", "the group has its own");
}

/// However many schedule at the same time.
async fn no_more_are_scheduled_than_may_be<DB: TestDatabase>(test: Test<DB>) {
    const MOST: usize = 10;
    queue(&test).await;
    let builder = SqlQueue::builder(test.pool.clone()).max_scheduled(MOST as u32);
    let queue = builder.build().unwrap();
    let (writer, far) = (
        queue.writer(),
        SystemTime::now() + Duration::from_secs(3600),
    );
    let mut writes = JoinSet::new();
    for number in 0..8 {
        let writer = writer.clone();
        let batch: Vec<_> = (0..3)
            .map(|i| message(STREAM, "k", 3 * number + i))
            .collect();
        writes.spawn(async move { writer.write_at(&batch, far).await });
    }
    let results = writes.join_all().await;
    let refused: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 5, "three batches of three fit: {refused:?}");
    for error in refused {
        assert!(error.indices().eq(0..3), "{error}");
        let (_, error) = &error.failures()[0];
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert!(error.is_retryable(), "there may be room later");
    }
    let stream = StreamName::new(STREAM).unwrap();
    let waiting = writer.scheduled(&stream, 100).await.unwrap();
    assert_eq!(waiting.len(), 9);
    // What is not for later, or for another stream, is not counted.
    let past = SystemTime::UNIX_EPOCH;
    let batch: Vec<_> = (0..20).map(|i| message(STREAM, "k", i)).collect();
    writer.write_at(&batch, past).await.unwrap();
    let other: Vec<_> = (0..MOST).map(|i| message("others", "k", i)).collect();
    writer.write_at(&other, far).await.unwrap();
    // More than may be at all never fit.
    let error = writer.write_at(&batch, far).await.unwrap_err();
    assert!(!error.failures()[0].1.is_retryable(), "{error}");
    assert!(
        writer
            .cancel(&stream, waiting[0].message.id())
            .await
            .unwrap()
    );
    assert!(writer.write_at(&batch[..2], far).await.is_ok());
}

async fn settings_are_checked<DB: TestDatabase>(test: Test<DB>) {
    let builder = || SqlQueue::builder(test.pool.clone());
    for refused in [
        builder().table("a b"),
        builder().lease(Duration::ZERO),
        builder().retention(Duration::ZERO),
        builder().largest_message(0),
        builder().max_scheduled(0),
        builder().poll_interval(Duration::ZERO),
        builder().timeout(Duration::ZERO),
    ] {
        let error = refused.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
    let queue = queue(&test).await;
    let mut options = ReadOptions::new(STREAM).unwrap().group("g").unwrap();
    options.driver.set("lease_ms", "0");
    let refused = queue.reader().subscribe(&options).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::InvalidConfig);
    let mut options = ReadOptions::new(STREAM).unwrap().group("g").unwrap();
    let lease = Some(Duration::from_secs(600));
    options.driver.insert(SqlQueueOptions { lease });
    let mut reader = queue.reader().subscribe(&options).await.unwrap();
    write(&queue, &[message(STREAM, "a", 1)]).await;
    let delivery = take(&mut *reader, 1).await.remove(0);
    let until = delivery.lease.unwrap();
    assert!(until > tokio::time::Instant::now() + Duration::from_secs(500));
}

async fn names_of_tables_are_the_users<DB: TestDatabase>(test: Test<DB>) {
    for name in ["mine", "Select"] {
        let queue = SqlQueue::builder(test.pool.clone()).table(name).build();
        let queue = queue.unwrap();
        queue.migrate().await.unwrap();
        queue.migrate().await.unwrap();
        let mut reader = read(&queue, "g").await;
        write(&queue, &[message(STREAM, "a", 1)]).await;
        let deliveries = take(&mut *reader, 1).await;
        settle(&mut *reader, deliveries, SettleAction::Ack).await;
    }
}
