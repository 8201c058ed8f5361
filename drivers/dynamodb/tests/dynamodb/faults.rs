//! Crashes and outages: duplicates yes, loss no.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::ErrorKind;
use streams_dynamodb::{Mode, NewTables, Outbox};
use streams_services::DynamoDb as Server;

use crate::destination::{Destination, relay, run};
use crate::inbox::with_clock;
use crate::proxy::Fault;
use crate::relay::in_each_mode;
use crate::support::{LONG, Setup, commit, endpoint, message, new_item, until_empty};

in_each_mode! {
    killed_between_write_and_delete,
    a_destination_that_is_down_or_hangs_is_waited_for,
    throttling_and_broken_connections_are_waited_out,
    a_lease_table_that_is_throttled_loses_nothing,
    relays_whose_clocks_are_wrong_share_the_work,
}

async fn killed_between_write_and_delete(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    commit(
        outbox,
        &[message("orders", "a", 1), message("orders", "a", 2)],
    )
    .await;
    commit(outbox, &[message("orders", "a", 3)]).await;
    to.hangs.send_replace(true);
    let killed = run(relay(outbox, &to, mode));
    to.until_count(3).await;
    killed.crash().await;
    assert_eq!(outbox.pending().await.unwrap(), 2, "nothing was deleted");

    to.hangs.send_replace(false);
    let running = run(relay(outbox, &to, mode));
    until_empty(outbox).await;
    let report = running.stop().await;
    assert_eq!((report.messages, report.rows), (3, 2));
    let (lanes, again) = to.first_arrivals();
    assert_eq!(
        (&lanes["orders/a"], again),
        (&["1", "2", "3"].map(str::to_owned).to_vec(), 3)
    );
}

async fn a_destination_that_is_down_or_hangs_is_waited_for(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    to.fail(|_| Some(ErrorKind::Unavailable));
    for number in 0..4 {
        commit(outbox, &[message("orders", "a", number)]).await;
    }
    let running = run(relay(outbox, &to, mode).attempts(2));
    to.until_refused(20).await;
    // More come meanwhile.
    commit(outbox, &[message("orders", "a", 4)]).await;
    assert_eq!(outbox.pending().await.unwrap(), 5);
    // It takes the messages and never says so: the write is given up after half a lease.
    to.hangs.send_replace(true);
    to.heal();
    to.until_count(4).await;
    to.hangs.send_replace(false);
    until_empty(outbox).await;
    let report = running.stop().await;
    assert_eq!(report.set_aside, 0, "no attempts are counted");
    let (lanes, _) = to.first_arrivals();
    assert_eq!(lanes["orders/a"], ["0", "1", "2", "3", "4"]);
}

/// A proxy that refuses, breaks and loses in turns, for a while.
async fn throttling_and_broken_connections_are_waited_out(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    setup.proxy.rule(move |operation, _| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        match number % 9 {
            0 | 1 => Some(Fault::Refuse(400, "ProvisionedThroughputExceededException")),
            2 => Some(Fault::Refuse(500, "InternalServerError")),
            3 => Some(Fault::Reset),
            4 if operation != "TransactWriteItems" => Some(Fault::LoseAnswer),
            _ => None,
        }
    });
    let running = run(relay(&setup.proxied, &to, mode).lease(Duration::from_secs(10)));
    for number in 0..20 {
        commit(outbox, &[message("orders", ["a", "b"][number % 2], number)]).await;
    }
    until_empty(outbox).await;
    assert!(count.load(Ordering::Relaxed) > 9);
    setup.proxy.heal();
    running.stop().await;
    let (lanes, _) = to.first_arrivals();
    for (first, key) in ["a", "b"].into_iter().enumerate() {
        let expected: Vec<_> = (first..20).step_by(2).map(|n| n.to_string()).collect();
        assert_eq!(lanes[&format!("orders/{key}")], expected);
    }
    assert_eq!(outbox.set_aside(10).await.unwrap(), []);
}

/// Leases run out, and checkpoints are not kept. The relay begins anew when it can.
async fn a_lease_table_that_is_throttled_loses_nothing(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    let running = run(relay(&setup.proxied, &to, mode).lease(Duration::from_secs(1)));
    commit(outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    let (throttled, leases) = (Arc::new(AtomicUsize::new(0)), setup.leases.clone());
    let count = throttled.clone();
    setup.proxy.rule(move |_, body| {
        if body["TableName"] != *leases {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Refuse(400, "ProvisionedThroughputExceededException"))
    });
    for number in 1..10 {
        commit(outbox, &[message("orders", "a", number)]).await;
    }
    // Long enough for every lease to have run out: another one may take over.
    let other = run(relay(outbox, &to.tagged(1), mode).lease(Duration::from_secs(1)));
    to.until(|written| written.iter().any(|written| written.tag == 1) || written.len() >= 10)
        .await;
    until_empty(outbox).await;
    other.stop().await;
    assert!(throttled.load(Ordering::Relaxed) > 0);
    setup.proxy.heal();
    commit(outbox, &[message("orders", "a", 10)]).await;
    until_empty(outbox).await;
    running.stop().await;
    let (lanes, _) = to.first_arrivals();
    let expected: Vec<_> = (0..11).map(|number| number.to_string()).collect();
    assert_eq!(lanes["orders/a"], expected);
}

async fn relays_whose_clocks_are_wrong_share_the_work(setup: &Setup, mode: Mode) {
    let (outbox, to) = (&setup.outbox, Destination::new());
    let endpoint = endpoint().await;
    let mut relays = Vec::new();
    for (tag, wrong) in [(1, 3600), (2, -3600)] {
        let outbox = setup.other(with_clock(&endpoint, wrong).await);
        relays.push(run(relay(&outbox, &to.tagged(tag), mode)));
    }
    for number in 0..30 {
        commit(outbox, &[message("orders", ["a", "b"][number % 2], number)]).await;
    }
    until_empty(outbox).await;
    for relay in relays {
        relay.stop().await;
    }
    let (lanes, again) = to.first_arrivals();
    assert_eq!(again, 0, "nobody takes what another one is at");
    let expected: Vec<_> = (0..30)
        .step_by(2)
        .map(|number| number.to_string())
        .collect();
    assert_eq!(lanes["orders/a"], expected);
}

/// Its own server, killed again and again while relays work and writers write.
async fn the_server_is_killed(mode: Mode) {
    let server = tokio::task::spawn_blocking(|| Server::new().start());
    let server = Arc::new(server.await.unwrap().unwrap());
    let setup = Setup::at(&server.url(), &NewTables::new().partitions(2)).await;
    let setup = Arc::new(setup);
    let to = Destination::new();
    let lease = Duration::from_secs(2);
    let relays = [1, 2].map(|tag| {
        let outbox = setup.other(setup.dynamodb.clone());
        run(relay(&outbox, &to.tagged(tag), mode).lease(lease))
    });
    let over = Arc::new(AtomicBool::new(false));
    let writers = ["a", "b", "c"].map(|key| {
        let (setup, over) = (setup.clone(), over.clone());
        let outbox = setup.other(setup.dynamodb.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) || number < 10 {
                write_through_faults(&setup, &outbox, key, number).await;
                number += 1;
            }
            (key, number)
        })
    });
    for kill in 1..=3 {
        to.until_count(kill * 10).await;
        let server = server.clone();
        let again = tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart().unwrap();
            server.wait_ready().unwrap();
        });
        again.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut expected = Vec::new();
    for writer in writers {
        expected.push(tokio::time::timeout(LONG, writer).await.unwrap().unwrap());
    }
    until_empty(&setup.outbox).await;
    for relay in relays {
        relay.stop().await;
    }
    let (lanes, again) = to.first_arrivals();
    println!("{again} came again");
    for (key, count) in expected {
        let numbers: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(lanes[&format!("orders/{key}")], numbers);
    }
}

/// Commits until it is known to be done; the same transaction, so it is done once. And until the table
/// has it: DynamoDB Local answers a transaction before it commits it to its file, so that what it has
/// answered is gone if it is killed in that moment. DynamoDB itself keeps what it has answered.
async fn write_through_faults(setup: &Setup, outbox: &Outbox, key: &str, number: usize) {
    let id = format!("{key}-{number}");
    loop {
        let mut tx = outbox.begin();
        tx.add(new_item(&setup.table, &id)).unwrap();
        let message = message("orders", key, number);
        tx.writer().write(&[message]).await.unwrap();
        while let Err(error) = tx.commit().await {
            assert!(error.is_retryable(), "{error}");
            tokio::task::yield_now().await;
        }
        if setup.has_item(&id).await {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_under_relays_by_query() {
    the_server_is_killed(Mode::Query).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_under_relays_by_streams() {
    the_server_is_killed(Mode::Streams).await;
}
