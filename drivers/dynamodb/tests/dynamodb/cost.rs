//! What it costs: AWS bills by request, and by the size of what it reads and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streams_dynamodb::{Mode, NewTables};

use crate::destination::{Destination, relay, run};
use crate::support::{Setup, message, until_empty};

/// The actions that the README's policies allow, one after the other.
fn policies() -> Vec<BTreeSet<String>> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```json").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0);
    let policy = |block: &str| {
        let policy: serde_json::Value = serde_json::from_str(block).unwrap();
        let statements = policy["Statement"].as_array().unwrap().clone();
        let actions = statements.into_iter().flat_map(|statement| {
            let actions = statement["Action"].as_array().unwrap().clone();
            actions
                .into_iter()
                .map(|action| action.as_str().unwrap().to_owned())
        });
        actions.collect()
    };
    blocks.map(policy).collect()
}

/// Whoever has this policy may ask for these.
fn is_allowed(policy: &BTreeSet<String>, counts: &BTreeMap<String, usize>) {
    for operation in counts.keys() {
        // A transaction needs what its items need.
        let action = operation.replace("TransactWriteItems", "PutItem");
        assert!(
            policy.contains(&format!("dynamodb:{action}")),
            "{operation}"
        );
    }
}

fn count(requests: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request).or_default() += 1;
    }
    counts
}

/// A thousand messages, each committed alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_cost_few_requests_beside_their_transactions() {
    let setup = Setup::with(&NewTables::new().partitions(2)).await;
    setup.proxied.check().await.unwrap();
    let writers = (0..4).map(|writer| {
        let setup = &setup;
        async move {
            for number in 0..250 {
                let mut tx = setup.proxied.begin();
                let key = format!("{writer}-{}", number % 25);
                tx.writer()
                    .write(&[message("orders", &key, number)])
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        }
    });
    setup.proxy.requests();
    futures_util::future::join_all(writers).await;
    let written = count(setup.proxy.requests());
    println!("writing: {written:?}");
    assert!(written.values().sum::<usize>() <= 1010, "{written:?}");
    is_allowed(&policies()[0], &written);

    let to = Destination::new();
    let once = relay(&setup.proxied, &to, Mode::Query).lease(Duration::from_secs(60));
    let once = once.build().unwrap();
    once.run_once().await.unwrap();
    let relayed = count(setup.proxy.requests());
    println!("relaying: {relayed:?}");
    assert_eq!(to.data().len(), 1000);
    assert!(relayed["BatchWriteItem"] <= 44, "{relayed:?}");
    assert!(relayed.values().sum::<usize>() <= 80, "{relayed:?}");
    is_allowed(&policies()[1], &relayed);
    setup.end().await;
}

/// A relay that has nothing to do, of the default settings but for how long it is watched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_looks_once_a_second_at_each_part() {
    for mode in [Mode::Query, Mode::Streams] {
        let setup = Setup::with(&NewTables::new().partitions(2)).await;
        let to = Destination::new();
        let second = Duration::from_secs(1);
        let settings = relay(&setup.proxied, &to, mode);
        let running = run(settings.lease(second * 30).poll_interval(second, second));
        let looks = if mode == Mode::Query {
            "Query"
        } else {
            "GetRecords"
        };
        until_asked(&setup, looks).await;
        setup.proxy.requests();
        tokio::time::sleep(second * 6).await;
        let requests = count(setup.proxy.requests());
        println!("{mode:?}, six seconds: {requests:?}");
        let parts = if mode == Mode::Query { 2 } else { 1 };
        let looked = requests.get(looks).copied().unwrap_or_default();
        assert!(looked <= 6 * parts + parts, "{requests:?}");
        is_allowed(&policies()[1], &requests);
        assert!(
            requests.values().sum::<usize>() <= looked + 4,
            "{requests:?}"
        );
        until_empty(&setup.outbox).await;
        running.stop().await;
        setup.end().await;
    }
}

async fn until_asked(setup: &Setup, operation: &str) {
    let asked = || {
        setup
            .proxy
            .requests()
            .iter()
            .any(|request| request == operation)
    };
    crate::support::until(|| async { asked() }).await;
    // The first round is over.
    crate::support::until(|| async { asked() }).await;
}
