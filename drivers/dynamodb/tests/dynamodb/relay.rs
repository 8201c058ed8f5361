//! The relay: every message that is committed arrives, in order, and no other.

use std::collections::BTreeSet;
use std::time::Duration;

use streams_core::{ErrorKind, Message};
use streams_dynamodb::{Cleanup, Mode};

use crate::destination::{Destination, relay, run};
use crate::support::{Setup, commit, message, until, until_empty};

/// Each of these is a test for each mode.
macro_rules! in_each_mode {
    ($($name:ident),+ $(,)?) => {
        mod query {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let setup = crate::support::Setup::new().await;
                super::$name(&setup, streams_dynamodb::Mode::Query).await;
                setup.end().await;
            })+
        }
        mod streams {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let setup = crate::support::Setup::new().await;
                super::$name(&setup, streams_dynamodb::Mode::Streams).await;
                setup.end().await;
            })+
        }
    };
}

pub(crate) use in_each_mode;

in_each_mode! {
    messages_arrive_in_order_and_leave_the_table,
    a_message_arrives_as_it_was,
    relays_share_the_work_and_take_over,
    one_that_fails_is_set_aside_and_holds_back_no_other_key,
    a_row_written_in_part_is_tried_for_the_rest,
    a_stream_that_is_down_does_not_hold_back_others,
    rows_are_kept_for_a_while,
    rows_that_are_corrupt_are_set_aside,
}

async fn messages_arrive_in_order_and_leave_the_table(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    // Some before the relay is there, some after.
    for number in 0..30 {
        commit(
            outbox,
            &[message("orders", ["a", "b", "c"][number % 3], number)],
        )
        .await;
    }
    let running = run(relay(outbox, &to, mode));
    for number in 30..60 {
        commit(
            outbox,
            &[message("orders", ["a", "b", "c"][number % 3], number)],
        )
        .await;
    }
    to.until_count(60).await;
    until_empty(outbox).await;
    let report = running.stop().await;
    assert_eq!(
        (report.messages, report.rows, report.set_aside),
        (60, 60, 0)
    );
    let (lanes, again) = to.first_arrivals();
    assert_eq!(again, 0);
    for (first, key) in ["a", "b", "c"].into_iter().enumerate() {
        let expected: Vec<_> = (first..60).step_by(3).map(|n| n.to_string()).collect();
        assert_eq!(lanes[&format!("orders/{key}")], expected);
    }
    // Another one finds nothing more.
    let running = run(relay(outbox, &to, mode));
    commit(outbox, &[message("orders", "a", 60)]).await;
    to.until(|written| written.iter().any(|written| written.data == "60"))
        .await;
    running.stop().await;
    assert_eq!(to.data().len(), 61);
}

async fn a_message_arrives_as_it_was(setup: &Setup, mode: Mode) {
    let sent = Message::builder("payment.made")
        .key(&[0xff, 0, 1][..])
        .header("h", "1")
        .header("h", "2")
        .content_type("text/plain")
        .data(vec![0, 159, 146, 150]);
    let sent = sent.build().unwrap();
    commit(&setup.outbox, std::slice::from_ref(&sent)).await;
    let chanbuf = streams_chanbuf::Chanbuf::new();
    let mut options = streams_core::ReadOptions::new("payment.made").unwrap();
    options.group = None;
    let reader = streams_core::Driver::reader(&chanbuf);
    let mut reading = reader.subscribe(&options).await.unwrap();
    let relay = streams_dynamodb::Relay::builder(
        setup.outbox.clone(),
        streams_core::Driver::writer(&chanbuf),
    );
    let running = run(relay.mode(mode));
    let mut got = Vec::new();
    while got.is_empty() {
        let received = reading.receive(std::num::NonZeroUsize::MIN, &mut got);
        tokio::time::timeout(crate::support::LONG, received)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(got[0].message, sent);
    assert_eq!(got[0].message.time(), sent.time());
    running.stop().await;
}

async fn relays_share_the_work_and_take_over(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    let keys = ["a", "b", "c", "d", "e", "f"];
    let first = run(relay(outbox, &to.tagged(1), mode));
    commit(outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    let second = run(relay(
        &setup.other(setup.dynamodb.clone()),
        &to.tagged(2),
        mode,
    ));
    let tags = || {
        to.written()
            .iter()
            .map(|written| written.tag)
            .collect::<BTreeSet<_>>()
    };
    let mut number = 0;
    if mode == Mode::Query {
        // There are two partitions, so each gets one. The stream has one shard.
        while tags().len() < 2 {
            number += 1;
            assert!(number < 2000, "the second gets no share");
            commit(outbox, &[message("orders", keys[number % 6], number)]).await;
        }
    }
    // One crashes with its leases, and the other takes over.
    first.crash().await;
    for _ in 0..20 {
        number += 1;
        commit(outbox, &[message("orders", keys[number % 6], number)]).await;
    }
    until_empty(outbox).await;
    let third = run(relay(outbox, &to.tagged(3), mode));
    // One stops, and lets go of its leases.
    second.stop().await;
    for _ in 0..20 {
        number += 1;
        commit(outbox, &[message("orders", keys[number % 6], number)]).await;
    }
    until_empty(outbox).await;
    third.stop().await;
    assert!(tags().contains(&3));
    let (lanes, _) = to.first_arrivals();
    let mut all = 0;
    for data in lanes.values() {
        let numbers: Vec<usize> = data.iter().map(|data| data.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{lanes:?}");
        all += numbers.len();
    }
    assert_eq!(all, number + 1);
}

async fn one_that_fails_is_set_aside_and_holds_back_no_other_key(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    to.fail(|message| (message.data().as_ref() == b"3").then_some(ErrorKind::Unrecoverable));
    for number in 0..8 {
        commit(outbox, &[message("orders", ["a", "b"][number % 2], number)]).await;
    }
    let running = run(relay(outbox, &to, mode).attempts(3));
    to.until_count(7).await;
    until_empty(outbox).await;
    let aside = outbox.set_aside(10).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!((aside[0].messages, aside[0].attempts), (1, 3));
    let why = aside[0].error.as_deref().unwrap();
    assert!(why.contains("as the test wants"), "{why}");
    let (lanes, again) = to.first_arrivals();
    assert_eq!(again, 0);
    assert_eq!(lanes["orders/a"], ["0", "2", "4", "6"]);
    assert_eq!(lanes["orders/b"], ["1", "5", "7"]);

    // An operator asks for it.
    to.heal();
    assert!(!outbox.retry("nonsense").await.unwrap());
    assert!(outbox.retry(&aside[0].batch_id).await.unwrap());
    assert!(!outbox.retry(&aside[0].batch_id).await.unwrap());
    to.until_count(8).await;
    until_empty(outbox).await;
    assert_eq!(outbox.set_aside(10).await.unwrap(), []);
    assert_eq!(running.stop().await.set_aside, 1);
}

async fn a_row_written_in_part_is_tried_for_the_rest(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    to.fail(|message| (message.data().as_ref() == b"2").then_some(ErrorKind::Unrecoverable));
    let row: Vec<_> = (1..4)
        .map(|number| message("orders", "a", number))
        .collect();
    commit(outbox, &row).await;
    let running = run(relay(outbox, &to, mode).attempts(5));
    until_empty(outbox).await;
    assert_eq!(
        to.data(),
        ["1", "3"],
        "what was written is not written again"
    );
    let aside = outbox.set_aside(10).await.unwrap();
    assert_eq!((aside[0].messages, aside[0].attempts), (1, 5));
    to.heal();
    outbox.retry(&aside[0].batch_id).await.unwrap();
    to.until_count(3).await;
    running.stop().await;
    assert_eq!(to.data(), ["1", "3", "2"]);
}

async fn a_stream_that_is_down_does_not_hold_back_others(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    to.fail(|message| (message.stream().as_str() == "odd").then_some(ErrorKind::Unavailable));
    // More than are read together, all of one key and so of one partition.
    for number in 0..30 {
        commit(outbox, &[message("odd", "a", number)]).await;
    }
    for number in 0..5 {
        commit(outbox, &[message("even", &number.to_string(), number)]).await;
    }
    let running = run(relay(outbox, &to, mode).rows(5).attempts(1_000_000));
    to.until_count(5).await;
    to.heal();
    to.until_count(35).await;
    until_empty(outbox).await;
    running.stop().await;
    let (lanes, again) = to.first_arrivals();
    let expected: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    assert_eq!((&lanes["odd/a"], again), (&expected, 0));
}

async fn rows_are_kept_for_a_while(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    commit(
        outbox,
        &[message("orders", "a", 1), message("orders", "a", 2)],
    )
    .await;
    let keep = Cleanup::Keep(Duration::from_secs(3600));
    let running = run(relay(outbox, &to, mode).cleanup(keep));
    until_empty(outbox).await;
    running.stop().await;
    assert_eq!(setup.count("kept-0").await + setup.count("kept-1").await, 1);
    assert_eq!(to.data(), ["1", "2"]);
}

async fn rows_that_are_corrupt_are_set_aside(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    setup
        .put("ready-0", "0000000000000001-x", Some(b"nonsense"))
        .await;
    setup.put("ready-1", "no place", None).await;
    commit(outbox, &[message("orders", "a", 1)]).await;
    let running = run(relay(outbox, &to, mode));
    to.until_count(1).await;
    until_empty(outbox).await;
    until(|| async { outbox.set_aside(10).await.unwrap().len() == 2 }).await;
    running.stop().await;
    for aside in outbox.set_aside(10).await.unwrap() {
        let why = aside.error.unwrap();
        assert!(why.starts_with("Codec"), "{why}");
    }
}

#[tokio::test]
async fn one_call_relays_what_is_there() {
    let setup = Setup::new().await;
    let (outbox, to) = (&setup.outbox, Destination::new());
    for number in 0..40 {
        commit(
            outbox,
            &[message("orders", &(number % 5).to_string(), number)],
        )
        .await;
    }
    let once = relay(outbox, &to, Mode::Query)
        .rows(3)
        .lease(Duration::from_secs(30))
        .build()
        .unwrap();
    let report = once.run_once().await.unwrap();
    assert_eq!((report.messages, outbox.pending().await.unwrap()), (40, 0));
    assert_eq!(once.run_once().await.unwrap().messages, 0);

    // Not beside another one.
    let running = run(relay(outbox, &to, Mode::Query));
    commit(outbox, &[message("orders", "a", 40)]).await;
    to.until_count(41).await;
    let error = once.run_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    running.stop().await;
    once.run_once().await.unwrap();

    to.fail(|_| Some(ErrorKind::Unavailable));
    commit(outbox, &[message("orders", "a", 41)]).await;
    let error = once.run_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    setup.end().await;
}

/// A query is no snapshot: a row of a key may have been committed behind its back.
#[tokio::test]
async fn what_comes_in_while_it_looks_goes_first() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    let setup = Setup::new().await;
    for number in 1..4 {
        commit(&setup.outbox, &[message("orders", "a", number)]).await;
    }
    // The first look does not see the first row.
    let hidden = Arc::new(AtomicBool::new(false));
    let hide = hidden.clone();
    setup.proxy.rule(move |operation, body| {
        let of_rows = body["ExpressionAttributeValues"][":partition"].is_object();
        if operation != "Query" || !of_rows || hide.load(Ordering::Relaxed) {
            return None;
        }
        let hide = hide.clone();
        Some(crate::proxy::Fault::Edit(Box::new(move |answer| {
            let rows = answer["Items"].as_array_mut().unwrap();
            if rows.len() > 1 {
                rows.remove(0);
                hide.store(true, Ordering::Relaxed);
            }
        })))
    });
    let to = Destination::new();
    let running = run(relay(&setup.proxied, &to, Mode::Query));
    to.until_count(3).await;
    running.stop().await;
    assert!(hidden.load(Ordering::Relaxed));
    assert_eq!(to.data(), ["1", "2", "3"]);
    setup.end().await;
}
