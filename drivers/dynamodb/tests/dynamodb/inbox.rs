//! The inbox: a message that comes twice is handled once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use streams_core::{
    Claim, ClaimId, Context, DeduplicationStorage, ErrorKind, Handler, Layer, Message, MessageId,
    Outcome, message_fn,
};
use streams_dynamodb::{DynamoDb, Inbox};
use streams_middleware::Deduplication;

use crate::proxy::{Fault, HttpProxy};
use crate::support::{connection, endpoint, name, new_item};

const MINUTE: Duration = Duration::from_secs(60);

struct Test {
    inbox: Inbox,
    dynamodb: DynamoDb,
    table: String,
}

impl Test {
    async fn new() -> Self {
        Self::of(connection(&endpoint().await).build().await.unwrap()).await
    }

    async fn of(dynamodb: DynamoDb) -> Self {
        let table = name("inbox");
        let inbox = Inbox::builder(dynamodb.clone())
            .table(&table)
            .build()
            .unwrap();
        assert!(inbox.migrate().await.unwrap());
        assert!(!inbox.migrate().await.unwrap(), "it was there");
        Self {
            inbox,
            dynamodb,
            table,
        }
    }

    /// The same table for another process.
    fn other(&self, dynamodb: DynamoDb) -> Inbox {
        Inbox::builder(dynamodb).table(&self.table).build().unwrap()
    }

    async fn acquire(&self, group: &str, id: &MessageId) -> ClaimId {
        match self.inbox.claim(group, id, MINUTE).await.unwrap() {
            Claim::Acquired(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// What the table has of a message.
    async fn item(
        &self,
        group: &str,
        id: &str,
    ) -> Option<std::collections::HashMap<String, AttributeValue>> {
        let get = self.dynamodb.client().get_item().table_name(&self.table);
        let get = get
            .key("worker_id", AttributeValue::S(group.to_owned()))
            .key("message_id", AttributeValue::S(id.to_owned()));
        get.consistent_read(true).send().await.unwrap().item
    }

    /// As the Go library writes it.
    async fn put_go(&self, group: &str, id: &str, expires: u64) {
        let put = self.dynamodb.client().put_item().table_name(&self.table);
        let put = put
            .item("worker_id", AttributeValue::S(group.to_owned()))
            .item("message_id", AttributeValue::S(id.to_owned()))
            .item("expiration_time", AttributeValue::N(expires.to_string()));
        put.send().await.unwrap();
    }

    async fn expire(&self, group: &str, id: &str) {
        let update = self.dynamodb.client().update_item().table_name(&self.table);
        let update = update
            .key("worker_id", AttributeValue::S(group.to_owned()))
            .key("message_id", AttributeValue::S(id.to_owned()))
            .update_expression("SET expires = :past")
            .expression_attribute_values(":past", AttributeValue::N("1".to_owned()));
        update.send().await.unwrap();
    }

    async fn end(self) {
        assert!(self.inbox.delete_table().await.unwrap());
    }
}

fn id(text: &str) -> MessageId {
    MessageId::new(text).unwrap()
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[tokio::test]
async fn a_claim_is_committed_or_released() {
    let test = Test::new().await;
    let (inbox, id) = (&test.inbox, id("order-17"));
    let claim = test.acquire("billing", &id).await;
    let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
    assert_eq!(again, Claim::InProgress);
    // Another group is not concerned.
    test.acquire("mail", &id).await;

    // Only who holds the claim ends it.
    let stranger = ClaimId(1);
    inbox.release("billing", &id, stranger).await.unwrap();
    assert!(
        !inbox
            .commit("billing", &id, stranger, MINUTE)
            .await
            .unwrap()
    );
    inbox.release("billing", &id, claim).await.unwrap();
    let late = inbox.commit("billing", &id, claim, MINUTE).await.unwrap();
    assert!(!late, "it was released");

    let claim = test.acquire("billing", &id).await;
    assert!(inbox.commit("billing", &id, claim, MINUTE).await.unwrap());
    for _ in 0..2 {
        let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
        assert_eq!(again, Claim::Done);
    }
    // A release that comes too late does not bring it back.
    inbox.release("billing", &id, claim).await.unwrap();
    let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
    assert_eq!(again, Claim::Done);

    // The TTL is that of the Go library: Unix seconds.
    let item = test.item("billing", "order-17").await.unwrap();
    let ttl: u64 = item["expiration_time"].as_n().unwrap().parse().unwrap();
    assert!((now() + 50..=now() + 70).contains(&ttl), "{ttl}");
    test.end().await;
}

/// Claims a message from eight tasks at once; returns how many got it.
async fn race(inbox: &Inbox, id: &MessageId) -> usize {
    let race = |(inbox, id): (Inbox, MessageId)| async move {
        inbox.claim("billing", &id, MINUTE).await.unwrap()
    };
    let tasks = (0..8).map(|_| tokio::spawn(race((inbox.clone(), id.clone()))));
    let tasks: Vec<_> = tasks.collect();
    let mut acquired = 0;
    for task in tasks {
        match task.await.unwrap() {
            Claim::Acquired(_) => acquired += 1,
            other => assert_eq!(other, Claim::InProgress),
        }
    }
    acquired
}

#[tokio::test]
async fn a_claim_is_acquired_by_one_and_taken_over_by_one() {
    let test = Test::new().await;
    let inbox = &test.inbox;
    for number in 0..10 {
        let id = id(&number.to_string());
        assert_eq!(race(inbox, &id).await, 1);
        test.expire("billing", id.as_str()).await;
        let late = test.acquire("billing", &id).await;
        test.expire("billing", id.as_str()).await;
        assert_eq!(race(inbox, &id).await, 1);
        // Who comes late cannot end the claim of the one who took over.
        assert!(!inbox.commit("billing", &id, late, MINUTE).await.unwrap());
        inbox.release("billing", &id, late).await.unwrap();
        let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
        assert_eq!(again, Claim::InProgress);
    }
    test.end().await;
}

#[tokio::test]
async fn what_go_has_handled_is_known_until_it_expires() {
    let test = Test::new().await;
    test.put_go("billing", "handled", now() + 3600).await;
    let handled = test.inbox.claim("billing", &id("handled"), MINUTE).await;
    assert_eq!(handled.unwrap(), Claim::Done);
    // DynamoDB has not deleted it yet.
    test.put_go("billing", "expired", now() - 10).await;
    test.acquire("billing", &id("expired")).await;
    test.end().await;
}

#[tokio::test]
async fn an_answer_that_was_lost_changes_nothing() {
    let proxy = HttpProxy::start(&endpoint().await).await;
    let dynamodb = connection(&proxy.endpoint()).request_timeout(Duration::from_secs(5));
    let test = Test::of(dynamodb.build().await.unwrap()).await;
    test.acquire("billing", &id("warm")).await;
    let lost = Arc::new(Mutex::new(BTreeSet::new()));
    let lose = lost.clone();
    proxy.rule(move |operation, _| {
        let ours = ["PutItem", "UpdateItem", "DeleteItem"].contains(&operation);
        let first = ours && lose.lock().unwrap().insert(operation.to_owned());
        first.then_some(Fault::Silence)
    });
    let claim = test.acquire("billing", &id("1")).await;
    assert!(
        test.inbox
            .commit("billing", &id("1"), claim, MINUTE)
            .await
            .unwrap()
    );
    let claim = test.acquire("billing", &id("2")).await;
    test.inbox
        .release("billing", &id("2"), claim)
        .await
        .unwrap();
    assert_eq!(lost.lock().unwrap().len(), 3, "each was sent twice");
    proxy.heal();
    test.acquire("billing", &id("2")).await;
    test.end().await;
}

#[derive(Debug)]
struct Wrong(i64);

impl TimeSource for Wrong {
    fn now(&self) -> SystemTime {
        let seconds = Duration::from_secs(self.0.unsigned_abs());
        if self.0 < 0 {
            SystemTime::now() - seconds
        } else {
            SystemTime::now() + seconds
        }
    }
}

/// A connection of a machine whose clock is wrong by so many seconds.
pub(crate) async fn with_clock(endpoint: &str, wrong: i64) -> DynamoDb {
    let right = connection(endpoint).build().await.unwrap();
    let config = right.client().config().to_builder();
    let config = config.time_source(SharedTimeSource::new(Wrong(wrong)));
    let client = aws_sdk_dynamodb::Client::from_conf(config.build());
    let streams = aws_sdk_dynamodbstreams::config::Builder::new()
        .behavior_version(aws_sdk_dynamodbstreams::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodbstreams::config::Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(aws_sdk_dynamodbstreams::config::Credentials::new(
            "local", "local", None, None, "tests",
        ));
    let streams = aws_sdk_dynamodbstreams::Client::from_conf(streams.build());
    DynamoDb::builder()
        .clients(client, streams)
        .build()
        .await
        .unwrap()
}

#[tokio::test]
async fn clocks_of_machines_do_not_count() {
    let test = Test::new().await;
    let fast = test.other(with_clock(&endpoint().await, 3600).await);
    let slow = test.other(with_clock(&endpoint().await, -3600).await);
    test.acquire("billing", &id("1")).await;
    for inbox in [&fast, &slow] {
        let claim = inbox.claim("billing", &id("1"), MINUTE).await.unwrap();
        assert_eq!(claim, Claim::InProgress);
    }
    test.put_go("billing", "2", now() - 10).await;
    let claim = slow.claim("billing", &id("2"), MINUTE).await.unwrap();
    assert!(matches!(claim, Claim::Acquired(_)), "{claim:?}");
    let claim = fast.claim("billing", &id("2"), MINUTE).await.unwrap();
    assert_eq!(claim, Claim::InProgress);
    test.end().await;
}

#[tokio::test]
async fn the_mark_and_the_work_are_one_transaction() {
    let test = Test::new().await;
    let work = crate::support::Setup::new().await;
    let client = test.dynamodb.client();
    for (number, first_time) in [(1, true), (2, false)] {
        let mark = test.inbox.first_time("billing", &id("17")).await.unwrap();
        let write = client.transact_write_items().transact_items(mark);
        let write = write.transact_items(new_item(&work.table, &number.to_string()));
        assert_eq!(write.send().await.is_ok(), first_time, "{number}");
        assert_eq!(work.count(&format!("own-{number}")).await == 1, first_time);
    }
    let known = test.inbox.claim("billing", &id("17"), MINUTE).await;
    assert_eq!(known.unwrap(), Claim::Done);
    work.end().await;
    test.end().await;
}

#[tokio::test]
async fn a_table_that_is_missing_or_another_is_named() {
    let test = Test::new().await;
    let setup = crate::support::Setup::new().await;
    for (table, kind, what) in [
        ("streams-nowhere", ErrorKind::NotFound, "migrate"),
        (&*setup.table, ErrorKind::InvalidConfig, "worker_id"),
    ] {
        let inbox = Inbox::builder(test.dynamodb.clone())
            .table(table)
            .build()
            .unwrap();
        let error = inbox.claim("billing", &id("1"), MINUTE).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(table), "{text}");
    }
    setup.end().await;
    test.end().await;
}

/// The middleware on it: what the contract is for.
#[tokio::test]
async fn the_middleware_handles_each_message_once() {
    let test = Test::new().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handler = message_fn(move |_, _| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if call == 0 {
                Outcome::Retry { after: None }
            } else {
                Outcome::Ack
            }
        }
    });
    let layer = Deduplication::builder(Arc::new(test.inbox.clone())).group("billing");
    let handler = layer.build().unwrap().layer(handler);
    let delivery = Context::for_test(Message::builder("orders").data("x").build().unwrap());
    let first = handler.handle(&delivery).await.unwrap();
    assert_eq!(first, Outcome::Retry { after: None });
    for _ in 0..3 {
        assert_eq!(handler.handle(&delivery).await.unwrap(), Outcome::Ack);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2, "a failure, and once");
    test.end().await;
}
