//! A change and the message that tells of it, in one transaction.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use streams_bench::pairs::compare;
use streams_core::ksuid;
use streams_dynamodb::Outbox;

use crate::setup::{Setup, message, name, text};

/// Transactions of each run.
const TRANSACTIONS: usize = 500;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let (plain, table) = setup.outbox(false);
    let (ordered, _) = setup.outbox(true);
    // The changes stand in the same table: it is as good as another.
    let by_hand = || setup.runtime.block_on(by_hand(setup, &table));
    let with = |outbox: &Outbox| setup.runtime.block_on(ours(outbox, &table));
    let compared = compare(by_hand, || with(&plain));
    let in_order = compare(by_hand, || with(&ordered));
    setup.runtime.block_on(async {
        for outbox in [plain, ordered] {
            outbox.delete_tables().await.expect("deleted");
        }
    });
    (
        1.0 / compared.ratio,
        format!(
            "{:.0} µs with `ordered(false)`, as the one by hand, {:.0} µs; in order, which is one item \
             more, {:.0} µs",
            each(compared.b),
            each(compared.a),
            each(in_order.b)
        ),
    )
}

async fn ours(outbox: &Outbox, table: &str) -> Duration {
    let begun = Instant::now();
    for number in 0..TRANSACTIONS {
        let mut tx = outbox.begin();
        tx.add(change(table)).expect("there is room");
        let written = tx.writer().write(&[message(number)]).await;
        written.expect("written");
        tx.commit().await.expect("committed");
    }
    begun.elapsed()
}

async fn by_hand(setup: &Setup, table: &str) -> Duration {
    // The same bytes, so that they need not be made.
    let raw_data = Blob::new(vec![b'x'; 320]);
    let begun = Instant::now();
    for _ in 0..TRANSACTIONS {
        let row = Put::builder()
            .table_name(table)
            .item("partition_id", text("by-hand"))
            .item("sequence_id", text(ksuid().expect("an id").as_str()))
            .item("raw_data", AttributeValue::B(raw_data.clone()))
            .item("message_count", AttributeValue::N("1".to_owned()));
        let row = row.build().expect("complete");
        let row = TransactWriteItem::builder().put(row).build();
        let request = setup.client.transact_write_items();
        let request = request.transact_items(change(table)).transact_items(row);
        request.send().await.expect("committed");
    }
    begun.elapsed()
}

fn change(table: &str) -> TransactWriteItem {
    let put = Put::builder()
        .table_name(table)
        .item("partition_id", text(name("payment")))
        .item("sequence_id", text("-"))
        .condition_expression("attribute_not_exists(partition_id)");
    let put = put.build().expect("complete");
    TransactWriteItem::builder().put(put).build()
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn each(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6 / TRANSACTIONS as f64
}
