//! Shards that end, split and are forgotten.
//!
//! The server has one shard. A proxy shows it as a parent that ends after some records, and two
//! children with the rest, each with some of the keys.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use streams_core::ErrorKind;
use streams_dynamodb::Mode;

use crate::destination::{Destination, relay, run};
use crate::proxy::Fault;
use crate::support::{Setup, commit, message, until, until_empty};

const PARENT: &str = "shardId-00000000000000000001-parent";
const CHILDREN: [&str; 2] = [
    "shardId-00000000000000000002-even",
    "shardId-00000000000000000002-odd",
];

#[derive(Default)]
struct Split {
    /// The shard of the server.
    shard: String,
    /// After how many records the parent ends.
    after: usize,
    /// Those that are the parent's.
    first: BTreeSet<String>,
    /// The shards that were read, in order, with what came before the children began.
    read: Vec<String>,
}

impl Split {
    /// Whether a record is of a shard.
    fn is_of(&mut self, shard: &str, record: &Value) -> bool {
        let number = record["dynamodb"]["SequenceNumber"]
            .as_str()
            .unwrap()
            .to_owned();
        let before = self.first.len() < self.after || self.first.contains(&number);
        if shard == PARENT {
            if before {
                self.first.insert(number);
            }
            return before;
        }
        let partition = record["dynamodb"]["Keys"]["partition_id"]["S"]
            .as_str()
            .unwrap();
        let odd = usize::from(partition == "ready-1");
        !self.first.contains(&number) && CHILDREN[odd] == shard
    }
}

/// Makes the proxy show the split.
fn split(setup: &Setup, after: usize) -> Arc<Mutex<Split>> {
    let split = Arc::new(Mutex::new(Split {
        after,
        ..Split::default()
    }));
    let shared = split.clone();
    setup.proxy.rule(move |operation, body| {
        let split = shared.clone();
        match operation {
            "DescribeStream" => Some(Fault::Edit(Box::new(move |answer| {
                let shards = &mut answer["StreamDescription"]["Shards"];
                split.lock().unwrap().shard = shards[0]["ShardId"].as_str().unwrap().to_owned();
                let range = json!({"StartingSequenceNumber": "1"});
                let child = |id: &str| {
                    json!({"ShardId": id, "ParentShardId": PARENT, "SequenceNumberRange": range})
                };
                let parent = json!({"ShardId": PARENT, "SequenceNumberRange": range});
                // In no order that helps.
                *shards = json!([child(CHILDREN[0]), parent, child(CHILDREN[1])]);
            }))),
            "GetShardIterator" => {
                let shard = body["ShardId"].as_str().unwrap().to_owned();
                body["ShardId"] = json!(split.lock().unwrap().shard);
                Some(Fault::Edit(Box::new(move |answer| {
                    let iterator = answer["ShardIterator"].as_str().map(|it| format!("{shard}!{it}"));
                    answer["ShardIterator"] = json!(iterator);
                })))
            }
            "GetRecords" => {
                let iterator = body["ShardIterator"].as_str().unwrap().to_owned();
                let (shard, iterator) = iterator.split_once('!').unwrap();
                let shard = shard.to_owned();
                body["ShardIterator"] = json!(iterator);
                Some(Fault::Edit(Box::new(move |answer| {
                    let mut split = split.lock().unwrap();
                    let Some(records) = answer["Records"].as_array_mut() else {
                        return;
                    };
                    let all = records.len();
                    records.retain(|record| split.is_of(&shard, record));
                    if !records.is_empty() {
                        split.read.push(shard.clone());
                    }
                    let ends = shard == PARENT
                        && (records.len() < all || split.first.len() >= split.after);
                    let next = answer["NextShardIterator"].as_str();
                    let next = next.filter(|_| !ends).map(|it| format!("{shard}!{it}"));
                    answer["NextShardIterator"] = json!(next);
                })))
            }
            _ => None,
        }
    });
    split
}

fn in_order(to: &Destination, count: usize) {
    let (lanes, _) = to.first_arrivals();
    let mut all = 0;
    for data in lanes.values() {
        let numbers: Vec<usize> = data.iter().map(|data| data.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{lanes:?}");
        all += numbers.len();
    }
    assert_eq!(all, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_read_when_their_parent_is_done() {
    let setup = Setup::new().await;
    let split = split(&setup, 60);
    let to = Destination::new();
    // The parent is read by a relay that cannot get rid of a row, and so is not done.
    to.fail(|message| (message.stream().as_str() == "stuck").then_some(ErrorKind::Unavailable));
    commit(&setup.outbox, &[message("stuck", "z", 0)]).await;
    let keys = ["a", "b", "c", "d", "e"];
    let first = run(relay(&setup.proxied, &to, Mode::Streams).attempts(1_000_000));
    // Each commit makes two records, and each deletion one.
    let mut number = 0;
    while split.lock().unwrap().first.len() < 60 {
        commit(
            &setup.outbox,
            &[message("orders", keys[number % 5], number)],
        )
        .await;
        number += 1;
    }
    for _ in 0..20 {
        commit(
            &setup.outbox,
            &[message("orders", keys[number % 5], number)],
        )
        .await;
        number += 1;
    }
    to.until_refused(20).await;
    let read = || {
        split
            .lock()
            .unwrap()
            .read
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(read(), BTreeSet::from([PARENT.to_owned()]));
    to.heal();
    // Others help with the children.
    let second = run(relay(&setup.proxied, &to.tagged(1), Mode::Streams));
    until_empty(&setup.outbox).await;
    commit(&setup.outbox, &[message("orders", "a", number)]).await;
    until_empty(&setup.outbox).await;
    assert_eq!(read().len(), 3, "both children were read");
    first.stop().await;
    second.stop().await;
    in_order(&to, number + 2);

    // Whoever comes later knows that the parent is done.
    split.lock().unwrap().read.clear();
    let third = run(relay(&setup.proxied, &to, Mode::Streams));
    commit(&setup.outbox, &[message("orders", "a", number + 1)]).await;
    until_empty(&setup.outbox).await;
    third.stop().await;
    assert!(!read().contains(PARENT));
    in_order(&to, number + 3);
    setup.end().await;
}

/// Iterators live for 15 minutes, records for a day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_iterators_and_forgotten_records_lose_nothing() {
    let setup = Setup::new().await;
    let to = Destination::new();
    let running = run(relay(&setup.proxied, &to, Mode::Streams));
    commit(&setup.outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    for code in ["ExpiredIteratorException", "TrimmedDataAccessException"] {
        let told = Arc::new(Mutex::new(0));
        let count = told.clone();
        setup.proxy.rule(move |operation, _| {
            let mut told = count.lock().unwrap();
            let now = operation == "GetRecords" && *told < 2;
            *told += usize::from(now);
            now.then_some(Fault::Refuse(400, code))
        });
        for number in 1..10 {
            commit(&setup.outbox, &[message("orders", "a", number)]).await;
        }
        until(|| async { *told.lock().unwrap() == 2 }).await;
        until_empty(&setup.outbox).await;
    }
    running.stop().await;
    let (lanes, again) = to.first_arrivals();
    assert_eq!(
        again, 0,
        "what is not in the table any more is not written again"
    );
    assert_eq!(lanes["orders/a"].len(), 19);
    setup.end().await;
}

/// What the stream has forgotten while no relay was there is still in the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_shard_has_any_more_are_relayed_first() {
    let setup = Setup::new().await;
    let to = Destination::new();
    for number in 0..10 {
        commit(&setup.outbox, &[message("orders", "a", number)]).await;
    }
    // The stream brings nothing of it.
    let forgotten = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = forgotten.clone();
    setup.proxy.rule(move |operation, _| {
        let shared = shared.clone();
        (operation == "GetRecords").then(|| {
            Fault::Edit(Box::new(move |answer: &mut Value| {
                let mut forgotten = shared.lock().unwrap();
                if let Some(records) = answer["Records"].as_array_mut() {
                    let number = |record: &Value| record["dynamodb"]["SequenceNumber"].to_string();
                    if forgotten.is_empty() {
                        forgotten.extend(records.iter().map(number));
                    }
                    records.retain(|record| !forgotten.contains(&number(record)));
                }
            }))
        })
    });
    let running = run(relay(&setup.proxied, &to, Mode::Streams));
    to.until_count(10).await;
    for number in 10..15 {
        commit(&setup.outbox, &[message("orders", "a", number)]).await;
    }
    until_empty(&setup.outbox).await;
    running.stop().await;
    in_order(&to, 15);
    setup.end().await;
}
