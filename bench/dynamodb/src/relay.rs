//! From the outbox to a writer that does nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{DeleteRequest, PutRequest, WriteRequest};
use streams_bench::pairs::compare;
use streams_core::NoopWriter;
use streams_dynamodb::{Mode, Outbox, Relay};

use crate::setup::{Setup, message, text};

/// Rows of each run.
const ROWS: usize = 2_000;
/// Rows of a query, as the relay has it by itself.
const QUERY: i32 = 250;
/// Most of a request that writes.
const BATCH: usize = 25;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let (outbox, table) = setup.outbox(false);
    let relay = Relay::builder(outbox.clone(), Arc::new(NoopWriter::new())).mode(Mode::Query);
    let relay = relay.build().expect("valid settings");
    let fill = || setup.runtime.block_on(fill(setup, &outbox, &table));
    let by_hand = || {
        fill();
        setup.runtime.block_on(by_hand(setup, &table))
    };
    let ours = || {
        fill();
        let begun = Instant::now();
        let report = setup.runtime.block_on(relay.run_once()).expect("relayed");
        assert_eq!(report.rows, ROWS as u64);
        begun.elapsed()
    };
    let compared = compare(by_hand, ours);
    let deleted = setup.runtime.block_on(outbox.delete_tables());
    deleted.expect("deleted");
    (
        compared.ratio,
        format!(
            "{:.0} rows/s; by hand {:.0} rows/s",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}

/// Rows of one message each.
async fn fill(setup: &Setup, outbox: &Outbox, table: &str) {
    let mut puts = Vec::new();
    for number in 0..ROWS {
        for item in outbox.items(&[message(number)]).await.expect("items") {
            let put = item.put.expect("a row");
            let put = PutRequest::builder().set_item(Some(put.item));
            let put = put.build().expect("complete");
            puts.push(WriteRequest::builder().put_request(put).build());
        }
    }
    for batch in puts.chunks(BATCH) {
        write(setup, table, batch.to_vec()).await;
    }
}

/// The loop of somebody who has one relay and no second reading: it queries from the beginning, and deletes
/// what it found.
async fn by_hand(setup: &Setup, table: &str) -> Duration {
    let begun = Instant::now();
    let mut left = ROWS;
    while left > 0 {
        let query = setup
            .client
            .query()
            .table_name(table)
            .key_condition_expression("partition_id = :partition")
            .expression_attribute_values(":partition", text("ready-0"))
            .consistent_read(true)
            .limit(QUERY);
        let rows = query.send().await.expect("rows").items.unwrap_or_default();
        left -= rows.len();
        for batch in rows.chunks(BATCH) {
            let deletes = batch.iter().map(|row| {
                let key = |name: &str| row[name].clone();
                let delete = DeleteRequest::builder()
                    .key("partition_id", key("partition_id"))
                    .key("sequence_id", key("sequence_id"));
                let delete = delete.build().expect("complete");
                WriteRequest::builder().delete_request(delete).build()
            });
            write(setup, table, deletes.collect()).await;
        }
    }
    begun.elapsed()
}

async fn write(setup: &Setup, table: &str, requests: Vec<WriteRequest>) {
    let request = setup
        .client
        .batch_write_item()
        .request_items(table, requests);
    let done = request.send().await.expect("written");
    assert!(done.unprocessed_items.is_none_or(|left| left.is_empty()));
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(took: Duration) -> f64 {
    ROWS as f64 / took.as_secs_f64()
}
