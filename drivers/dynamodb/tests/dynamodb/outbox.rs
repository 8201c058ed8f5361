//! The outbox: what is committed is there, what is not is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::TransactWriteItem;
use streams_core::{ErrorKind, Message};
use streams_dynamodb::{Mode, NewTables, Outbox};

use crate::destination::{Destination, relay};
use crate::inbox::with_clock;
use crate::proxy::Fault;
use crate::support::{Setup, commit, connection, endpoint, message, name, new_item};

async fn relayed(outbox: &Outbox) -> Vec<String> {
    let to = Destination::new();
    let once = relay(outbox, &to, Mode::Query).lease(Duration::from_secs(30));
    once.build().unwrap().run_once().await.unwrap();
    to.data()
}

#[tokio::test]
async fn what_is_committed_is_relayed_and_what_is_not_never_is() {
    let setup = Setup::new().await;
    let outbox = &setup.outbox;
    let mut tx = outbox.begin();
    tx.add(new_item(&setup.table, "1")).unwrap();
    let writer = tx.writer();
    writer
        .write(&[message("orders", "a", 1), message("orders", "b", 2)])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    // It is over.
    let late = writer
        .write(&[message("orders", "a", 3)])
        .await
        .unwrap_err();
    assert_eq!(late.into_failures()[0].1.kind(), ErrorKind::Closed);
    let late = tx.add(new_item(&setup.table, "2")).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
    assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::Closed);

    let tx = outbox.begin();
    let writer = tx.writer();
    writer.write(&[message("orders", "a", 4)]).await.unwrap();
    drop(tx);
    let late = writer
        .write(&[message("orders", "a", 5)])
        .await
        .unwrap_err();
    assert_eq!(late.into_failures()[0].1.kind(), ErrorKind::Closed);
    let tx = outbox.begin();
    tx.writer()
        .write(&[message("orders", "a", 6)])
        .await
        .unwrap();
    tx.rollback();

    // The condition of the item does not hold.
    let mut tx = outbox.begin();
    tx.add(new_item(&setup.table, "3")).unwrap();
    tx.add(new_item(&setup.table, "1")).unwrap();
    tx.writer()
        .write(&[message("orders", "a", 7)])
        .await
        .unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unrecoverable);
    let text = error.to_string();
    assert!(
        text.contains("item=1: ConditionalCheckFailed") && text.contains("at_fault=1"),
        "{text}"
    );
    assert_eq!(setup.count("own-3").await, 0);

    let mut data = relayed(outbox).await;
    data.sort();
    assert_eq!(data, ["1", "2"]);
    assert_eq!(outbox.pending().await.unwrap(), 0);
    setup.end().await;
}

/// The caller's own request.
#[tokio::test]
async fn items_are_for_a_request_of_ones_own() {
    let setup = Setup::new().await;
    let outbox = &setup.outbox;
    assert_eq!(outbox.items(&[]).await.unwrap(), []);
    let bad = [
        message("orders", "a", 1),
        Message::builder("orders").build_received().unwrap(),
    ];
    let failures = outbox.items(&bad).await.unwrap_err().into_failures();
    assert_eq!((failures.len(), failures[0].0), (1, 1));

    let send = |items: Vec<TransactWriteItem>| {
        let client = setup.dynamodb.client();
        client
            .transact_write_items()
            .set_transact_items(Some(items))
            .send()
    };
    let early = outbox.items(&[message("orders", "a", 1)]).await.unwrap();
    let mut late = outbox.items(&[message("orders", "a", 2)]).await.unwrap();
    late.push(new_item(&setup.table, "1"));
    outbox.check_limits(&late).unwrap();
    send(late.clone()).await.unwrap();

    // Its place is before what is there already.
    let error = send(early).await.unwrap_err();
    assert!(outbox.learn(&error), "{}", outbox.explain(&error));
    send(outbox.items(&[message("orders", "a", 1)]).await.unwrap())
        .await
        .unwrap();

    // Not for the outbox alone: the caller's item is there already.
    let error = send(late).await.unwrap_err();
    assert!(!outbox.learn(&error));
    let text = outbox.explain(&error).to_string();
    assert!(text.contains("item=2: ConditionalCheckFailed"), "{text}");

    assert_eq!(relayed(outbox).await, ["2", "1"]);
    setup.end().await;
}

#[tokio::test]
async fn limits_are_checked_before_anything_is_sent() {
    let setup = Setup::new().await;
    let outbox = &setup.proxied;
    outbox.check().await.unwrap();
    commit(outbox, &[message("warm", "up", 0)]).await;
    setup.proxy.requests();
    let large = |bytes: usize| {
        let large = Message::builder("orders").key("k").data(vec![b'x'; bytes]);
        large.build().unwrap()
    };
    // 101 items; 4 MB; a message that is larger than an item.
    let many: Vec<_> = (0..99)
        .map(|n| message("orders", &n.to_string(), n))
        .collect();
    let mut tx = outbox.begin();
    for number in 0..2 {
        tx.add(new_item(&setup.table, &number.to_string())).unwrap();
    }
    tx.writer().write(&many).await.unwrap();
    assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::TooLarge);
    let mut tx = outbox.begin();
    tx.writer().write(&vec![large(300_000); 15]).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    let tx = outbox.begin();
    let error = tx
        .writer()
        .write(&[large(10), large(410_000)])
        .await
        .unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    assert_eq!(setup.proxy.requests(), Vec::<String>::new());

    // As much as there may be.
    let mut tx = outbox.begin();
    tx.writer().write(&vec![large(400_000); 10]).await.unwrap();
    tx.commit().await.unwrap();
    let many: Vec<_> = (0..90)
        .map(|n| message("orders", &n.to_string(), n))
        .collect();
    commit(outbox, &many).await;
    assert_eq!(relayed(outbox).await.len(), 101);
    setup.end().await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_done_once() {
    let setup = Setup::new().await;
    let lost = Arc::new(AtomicUsize::new(0));
    let lose = lost.clone();
    setup.proxy.rule(move |operation, _| {
        let ours = operation == "TransactWriteItems";
        (ours && lose.fetch_add(1, Ordering::Relaxed) < 3).then_some(Fault::LoseAnswer)
    });
    let mut tx = setup.proxied.begin();
    tx.add(new_item(&setup.table, "1")).unwrap();
    tx.writer()
        .write(&[message("orders", "a", 1)])
        .await
        .unwrap();
    while let Err(error) = tx.commit().await {
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(lost.load(Ordering::Relaxed), 4);
    assert_eq!(relayed(&setup.outbox).await, ["1"]);
    setup.end().await;
}

#[tokio::test]
async fn transactions_in_each_others_way_and_throttled_ones_are_tried_again() {
    let setup = Setup::new().await;
    // All at one key, each from a process of its own.
    let writers: Vec<_> = (0..6)
        .map(|n| {
            let outbox = setup.other(setup.dynamodb.clone());
            tokio::spawn(async move {
                loop {
                    let mut tx = outbox.begin();
                    tx.writer()
                        .write(&[message("orders", "a", n)])
                        .await
                        .unwrap();
                    match tx.commit().await {
                        Ok(()) => break,
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    setup.proxy.rule(move |operation, _| {
        let refuse = operation == "TransactWriteItems" && count.fetch_add(1, Ordering::Relaxed) < 2;
        refuse.then_some(Fault::Refuse(400, "ProvisionedThroughputExceededException"))
    });
    commit(&setup.proxied, &[message("orders", "a", 6)]).await;
    let mut data = relayed(&setup.outbox).await;
    assert_eq!(data.last().map(String::as_str), Some("6"));
    data.sort();
    assert_eq!(data, ["0", "1", "2", "3", "4", "5", "6"]);
    setup.end().await;
}

/// Processes whose clocks are hours apart write one key in turns.
#[tokio::test]
async fn a_key_keeps_the_order_of_its_commits_whatever_the_clocks_say() {
    let setup = Setup::new().await;
    let endpoint = endpoint().await;
    let mut outboxes = vec![setup.outbox.clone()];
    for wrong in [7200, -7200] {
        outboxes.push(setup.other(with_clock(&endpoint, wrong).await));
    }
    let mut expected = Vec::new();
    for number in 0..30 {
        commit(&outboxes[number % 3], &[message("orders", "a", number)]).await;
        expected.push(number.to_string());
    }
    assert_eq!(relayed(&setup.outbox).await, expected);
    setup.end().await;
}

/// A clock that nobody corrects, because it is wrong by less than an answer tells.
#[tokio::test]
async fn a_place_that_is_taken_costs_one_more_request() {
    let setup = Setup::new().await;
    commit(&setup.proxied, &[message("orders", "b", 0)]).await;
    let ahead = setup.other(with_clock(&endpoint().await, 1).await);
    commit(&ahead, &[message("orders", "a", 1)]).await;
    setup.proxy.requests();
    for number in 2..5 {
        commit(&setup.proxied, &[message("orders", "a", number)]).await;
    }
    let requests = setup.proxy.requests().len();
    assert!((3..=4).contains(&requests), "{requests}");
    let data = relayed(&setup.outbox).await;
    let of_a: Vec<_> = data.into_iter().filter(|data| data != "0").collect();
    assert_eq!(of_a, ["1", "2", "3", "4"]);
    setup.end().await;
}

#[tokio::test]
async fn tables_that_are_missing_or_others_are_named() {
    let setup = Setup::new().await;
    let inboxes = name("inbox");
    let inbox = streams_dynamodb::Inbox::builder(setup.dynamodb.clone());
    let inbox = inbox.table(&inboxes).build().unwrap();
    inbox.migrate().await.unwrap();
    for (table, leases, kind, what) in [
        (
            "streams-nowhere",
            &*setup.leases,
            ErrorKind::NotFound,
            "migrate",
        ),
        (
            &*setup.table,
            "streams-nowhere",
            ErrorKind::NotFound,
            "migrate",
        ),
        (
            &*inboxes,
            &*setup.leases,
            ErrorKind::InvalidConfig,
            "partition_id",
        ),
        (
            &*setup.table,
            &*inboxes,
            ErrorKind::InvalidConfig,
            "relay_name",
        ),
    ] {
        let outbox = Outbox::builder(setup.dynamodb.clone())
            .table(table)
            .leases_table(leases);
        let outbox = outbox.build().unwrap();
        let to = Destination::new();
        for mode in [Mode::Query, Mode::Streams] {
            let relay = relay(&outbox, &to, mode).build().unwrap();
            let error = relay.run(std::future::pending()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }
    let outbox = setup.other(setup.dynamodb.clone());
    drop(outbox);
    let nowhere = Outbox::builder(setup.dynamodb.clone()).table("streams-nowhere");
    let nowhere = nowhere.build().unwrap();
    let mut tx = nowhere.begin();
    tx.writer()
        .write(&[message("orders", "a", 1)])
        .await
        .unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    inbox.delete_table().await.unwrap();
    setup.end().await;
}

#[tokio::test]
async fn a_stream_is_added_to_a_table_without_one() {
    let setup = Setup::with(&NewTables::new().partitions(3).stream(false)).await;
    commit(&setup.outbox, &[message("orders", "a", 1)]).await;
    let to = Destination::new();
    let streams = relay(&setup.outbox, &to, Mode::Streams).build().unwrap();
    let error = streams.run(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("NEW_IMAGE"), "{error}");

    // The number of partitions stays: messages wait in them.
    setup
        .outbox
        .migrate(&NewTables::new().partitions(1))
        .await
        .unwrap();
    commit(&setup.outbox, &[message("orders", "b", 2)]).await;
    let running = crate::destination::run(relay(&setup.outbox, &to, Mode::Streams));
    to.until_count(2).await;
    running.stop().await;
    assert_eq!(setup.outbox.pending().await.unwrap(), 0);
    setup.end().await;
}

#[tokio::test]
async fn an_unreachable_server_is_said() {
    let dynamodb = connection("http://127.0.0.1:1").build().await.unwrap();
    let outbox = Outbox::builder(dynamodb).build().unwrap();
    let error = outbox.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("endpoint"), "{error}");
}
