//! Claims, and messages remembered.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use streams_bench::pairs::compare;
use streams_core::{Claim, DeduplicationStorage as _, MessageId, ksuid};
use streams_dynamodb::Inbox;

use crate::setup::{Setup, name, text};

/// Messages of each run.
const MESSAGES: usize = 500;
const GROUP: &str = "bench";
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let table = name("inbox");
    let inbox = Inbox::builder(setup.dynamodb.clone()).table(&table);
    let inbox = inbox.build().expect("valid settings");
    setup.runtime.block_on(inbox.migrate()).expect("a table");
    let compared = compare(
        || setup.runtime.block_on(by_hand(setup, &table)),
        || setup.runtime.block_on(ours(&inbox)),
    );
    let deleted = setup.runtime.block_on(inbox.delete_table());
    deleted.expect("deleted");
    (
        compared.ratio,
        format!(
            "{:.0} messages/s, one after another; by hand {:.0}",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}

async fn ours(inbox: &Inbox) -> Duration {
    let begun = Instant::now();
    for _ in 0..MESSAGES {
        let id = MessageId::new(ksuid().expect("an id").as_str()).expect("valid");
        let claim = inbox.claim(GROUP, &id, HOUR).await.expect("an answer");
        let Claim::Acquired(claim) = claim else {
            panic!("a new message is ours: {claim:?}");
        };
        let done = inbox.commit(GROUP, &id, claim, HOUR).await;
        assert!(done.expect("an answer"));
    }
    begun.elapsed()
}

async fn by_hand(setup: &Setup, table: &str) -> Duration {
    // Of a clock that nothing corrects.
    let expires = AttributeValue::N("4102444800".to_owned());
    let begun = Instant::now();
    for _ in 0..MESSAGES {
        let id = text(ksuid().expect("an id").as_str());
        let claim = setup
            .client
            .put_item()
            .table_name(table)
            .item("worker_id", text(GROUP))
            .item("message_id", id.clone())
            .item("expiration_time", expires.clone())
            .condition_expression("attribute_not_exists(worker_id)");
        claim.send().await.expect("claimed");
        let commit = setup
            .client
            .update_item()
            .table_name(table)
            .key("worker_id", text(GROUP))
            .key("message_id", id)
            .update_expression("SET expiration_time = :until, done = :done")
            .condition_expression("attribute_exists(worker_id)")
            .expression_attribute_values(":until", expires.clone())
            .expression_attribute_values(":done", AttributeValue::Bool(true));
        commit.send().await.expect("done");
    }
    begun.elapsed()
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(took: Duration) -> f64 {
    MESSAGES as f64 / took.as_secs_f64()
}
