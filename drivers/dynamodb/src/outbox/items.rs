//! Messages as items of a transaction.

use std::collections::BTreeMap;
use std::mem;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use streams_core::{Error, ErrorKind, Message, Result, WriteError, ksuid};
use streams_outbox::encode;

use super::Outbox;
use super::row::{KeyHash, LAST_SEQUENCE, MESSAGES, PARTITION, RAW_DATA, SEQUENCE, place, ready};
use crate::item::{Item, bytes, get_text, item, number, size, text};
use crate::table::{TTL, built};
use crate::{DRIVER, error};

/// What DynamoDB takes as one item.
const LARGEST_ITEM: usize = 400 * 1024;
/// What it takes as one transaction, in bytes and in items.
const LARGEST_TRANSACTION: usize = 4 * 1024 * 1024;
const MOST_ITEMS: usize = 100;
/// What is left of an item for messages: names, keys and the last error need a little.
pub(crate) const LARGEST_ROW: usize = LARGEST_ITEM - 4 * 1024;

/// How long a key's place in the order outlives its last message, in seconds: longer than any clock is
/// wrong, once it was corrected.
const KEY_RETENTION: u64 = 24 * 3600;

impl Outbox {
    /// The messages as items to be added to a `TransactWriteItems` of your own: they are published if
    /// it succeeds, and never if it is cancelled. One item for each partition the keys of the messages
    /// are in (more where they are larger than an item may be), and one for each key. An empty batch
    /// has none.
    ///
    /// Send them soon, and once. If the request is cancelled, ask [`learn`](Outbox::learn).
    ///
    /// ```no_run
    /// # use aws_sdk_dynamodb::types::TransactWriteItem;
    /// # use streams_core::Message;
    /// # async fn pay(
    /// #     client: aws_sdk_dynamodb::Client, outbox: streams_dynamodb::Outbox,
    /// #     payment: TransactWriteItem, messages: Vec<Message>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// loop {
    ///     let request = client.transact_write_items().transact_items(payment.clone());
    ///     let mut items = outbox.items(&messages).await?;
    ///     items.insert(0, payment.clone());
    ///     outbox.check_limits(&items)?;
    ///     match request.set_transact_items(Some(items)).send().await {
    ///         Ok(_) => break,
    ///         Err(error) if outbox.learn(&error) => continue,
    ///         Err(error) => return Err(outbox.explain(&error).into()),
    ///     }
    /// }
    /// outbox.notify(); // a relay of this process need not wait for its next look
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The failed indices, each with its reason: [`EmptyMessage`](ErrorKind::EmptyMessage) for one
    /// without data, [`TooLarge`](ErrorKind::TooLarge) for one that no item holds; or
    /// [`check`](Outbox::check)'s for all, at the first call.
    pub async fn items(&self, messages: &[Message]) -> Result<Vec<TransactWriteItem>, WriteError> {
        validate(messages)?;
        let all = |error| whole(messages.len(), error);
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let partitions = self.partitions().await.map_err(all)?;
        self.valid_items(messages, partitions)
            .map_err(|error| whole(messages.len(), error))
    }

    fn valid_items(&self, messages: &[Message], partitions: u32) -> Result<Vec<TransactWriteItem>> {
        let hashes: Vec<_> = messages.iter().map(KeyHash::of).collect();
        // Messages without a key go with the others, or anywhere.
        let any = hashes
            .iter()
            .flatten()
            .next()
            .map(|hash| hash.partition(partitions));
        let any = any.unwrap_or_else(|| fastrand::u32(..partitions));
        let mut of_partition: BTreeMap<u32, Vec<&Message>> = BTreeMap::new();
        for (message, hash) in messages.iter().zip(&hashes) {
            let partition = hash.map_or(any, |hash| hash.partition(partitions));
            of_partition.entry(partition).or_default().push(message);
        }

        let mut items = Vec::new();
        let mut places = Vec::new();
        for (partition, messages) in of_partition {
            for (count, raw_data) in rows(&messages) {
                let place = self.place();
                places.push(place);
                items.push(self.row(partition, place, count, raw_data)?);
            }
        }
        let (Some(&first), Some(&last)) = (places.first(), places.last()) else {
            return Ok(items);
        };
        if self.0.ordered {
            let mut keys: Vec<_> = hashes.into_iter().flatten().collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                items.push(self.head(key, first, last)?);
            }
        }
        Ok(items)
    }

    fn row(
        &self,
        partition: u32,
        at: u64,
        count: usize,
        raw_data: Vec<u8>,
    ) -> Result<TransactWriteItem> {
        let sequence = format!("{}-{}", place(at), ksuid()?);
        let row = item([
            (PARTITION, text(ready(partition))),
            (SEQUENCE, text(sequence)),
            (RAW_DATA, bytes(raw_data)),
            (MESSAGES, number(count)),
        ]);
        let put = Put::builder()
            .table_name(&self.0.table.name)
            .set_item(Some(row));
        Ok(TransactWriteItem::builder()
            .put(put.build().map_err(built)?)
            .build())
    }

    /// Moves a key on, if nobody was further.
    fn head(&self, key: KeyHash, first: u64, last: u64) -> Result<TransactWriteItem> {
        let expires = self.0.dynamodb.clock.seconds() + KEY_RETENTION;
        let update = Update::builder()
            .table_name(&self.0.table.name)
            .set_key(Some(key.head()))
            .update_expression(format!("SET {LAST_SEQUENCE} = :last, {TTL} = :expires"))
            .condition_expression(format!(
                "attribute_not_exists({LAST_SEQUENCE}) OR {LAST_SEQUENCE} < :first"
            ))
            .expression_attribute_values(":first", text(place(first)))
            .expression_attribute_values(":last", text(place(last)))
            .expression_attribute_values(":expires", number(expires))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update = update.build().map_err(built)?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    /// Learns from a request with [`items`](Outbox::items) that has failed. `true` says that it was
    /// cancelled because a key had come further than the messages' place in the order, and for nothing
    /// that is not of the outbox: ask for the items again, which get a later place, and send those.
    pub fn learn(&self, source: &SdkError<TransactWriteItemsError>) -> bool {
        let mut learned = false;
        for reason in error::reasons(source).unwrap_or_default() {
            match (reason.code(), reason.item()) {
                (Some("None") | None, _) => {}
                (Some("ConditionalCheckFailed"), Some(item)) => {
                    let Some(last) = last_place(item) else {
                        return false;
                    };
                    self.seen(last);
                    learned = true;
                }
                _ => return false,
            }
        }
        learned
    }

    /// The error of a `TransactWriteItems` that has failed: of one that was cancelled, with the reason
    /// of each item, by its number.
    pub fn explain(&self, source: &SdkError<TransactWriteItemsError>) -> Error {
        error::transaction(source, usize::MAX)
    }

    /// Checks what DynamoDB would refuse: more than 100 items in a transaction, more than 400 KB in an
    /// item, more than 4 MB in all. What updates make of an item is not known here.
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge).
    pub fn check_limits(&self, items: &[TransactWriteItem]) -> Result<()> {
        check_limits(items)
    }
}

/// How far a key has come, as its item says.
fn last_place(item: &Item) -> Option<u64> {
    u64::from_str_radix(get_text(item, LAST_SEQUENCE)?, 16).ok()
}

/// The messages in parts that fit into a row each: their number and bytes.
fn rows(messages: &[&Message]) -> Vec<(usize, Vec<u8>)> {
    let mut rows = Vec::new();
    let (mut count, mut row) = (0, Vec::new());
    for message in messages {
        let one = encode(std::slice::from_ref(*message));
        if count > 0 && row.len() + one.len() > LARGEST_ROW {
            rows.push((mem::take(&mut count), mem::take(&mut row)));
        }
        // Batches of protobuf, one after the other, are one batch.
        row.extend(one);
        count += 1;
    }
    if count > 0 {
        rows.push((count, row));
    }
    rows
}

/// Refuses what is not fit to be written.
pub(super) fn validate(batch: &[Message]) -> Result<(), WriteError> {
    let problem = |message: &Message| {
        let error = if message.data().is_empty() {
            Error::new(
                ErrorKind::EmptyMessage,
                "the message has no data; set it with `data`",
            )
        } else if message.size() > LARGEST_ROW / 2 && encoded(message) > LARGEST_ROW {
            Error::new(
                ErrorKind::TooLarge,
                "the message is larger than an item of DynamoDB may be; keep its data elsewhere, such \
                 as in S3, and send where it is",
            )
            .with("size", encoded(message))
            .with("limit", LARGEST_ROW)
        } else {
            return None;
        };
        let error = error.operation("write").driver(DRIVER);
        Some(error.with("stream", message.stream()))
    };
    let failures: Vec<_> = batch
        .iter()
        .enumerate()
        .filter_map(|(index, message)| Some((index, problem(message)?)))
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(WriteError::new(failures))
    }
}

fn encoded(message: &Message) -> usize {
    encode(std::slice::from_ref(message)).len()
}

/// The error of a batch that failed as a whole.
pub(super) fn whole(count: usize, reason: Error) -> WriteError {
    let (kind, retryable) = (reason.kind(), reason.is_retryable());
    let mut reason = Some(reason);
    WriteError::all(count, || {
        reason.take().unwrap_or_else(|| {
            Error::new(kind, "not written, for the same reason as the one before")
                .retryable(retryable)
                .operation("write")
                .driver(DRIVER)
        })
    })
}

pub(super) fn check_limits(items: &[TransactWriteItem]) -> Result<()> {
    let too_large = |message: &str| {
        Error::new(ErrorKind::TooLarge, message)
            .operation("commit")
            .driver(DRIVER)
    };
    if items.len() > MOST_ITEMS {
        return Err(too_large(
            "the transaction has more items than DynamoDB takes; each key of a message is one, each \
             partition with messages another. Split it, or make the outbox with `ordered(false)`",
        )
        .with("items", items.len())
        .with("limit", MOST_ITEMS));
    }
    let mut bytes = 0;
    for (index, one) in items.iter().enumerate() {
        let size = size_of(one);
        if size > LARGEST_ITEM {
            return Err(too_large(
                "an item of the transaction is larger than DynamoDB takes; split it",
            )
            .with("item", index)
            .with("size", size)
            .with("limit", LARGEST_ITEM));
        }
        bytes += size;
    }
    if bytes > LARGEST_TRANSACTION {
        return Err(
            too_large("the transaction is larger than DynamoDB takes; split it")
                .with("size", bytes)
                .with("limit", LARGEST_TRANSACTION),
        );
    }
    Ok(())
}

/// How large an item at least is.
fn size_of(write: &TransactWriteItem) -> usize {
    let values = |values: Option<&Item>| values.map_or(0, size);
    let put = write.put().map(|put| size(put.item()));
    let update = write
        .update()
        .map(|update| size(update.key()) + values(update.expression_attribute_values()));
    let delete = write.delete().map(|delete| size(delete.key()));
    put.or(update).or(delete).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str, data: usize) -> Message {
        let message = Message::builder("a").key(key).data(vec![b'x'; data]);
        message.build().unwrap()
    }

    #[test]
    fn rows_hold_as_much_as_fits_in_order() {
        let messages: Vec<_> = (0..10).map(|n| message(&n.to_string(), 100_000)).collect();
        let borrowed: Vec<_> = messages.iter().collect();
        let rows = rows(&borrowed);
        let counts: Vec<_> = rows.iter().map(|(count, _)| *count).collect();
        assert_eq!(counts, [4, 4, 2]);
        let mut read = Vec::new();
        for (count, raw) in rows {
            assert!(raw.len() <= LARGEST_ROW);
            let some = streams_outbox::decode(DRIVER, "b", &raw).unwrap();
            assert_eq!(some.len(), count);
            read.extend(some);
        }
        assert_eq!(read, messages);
    }

    #[test]
    fn what_no_item_holds_is_named_by_its_index() {
        let empty = Message::builder("a").build_received().unwrap();
        let batch = [
            message("k", 1),
            empty,
            message("k", 500_000),
            message("k", 405_000),
        ];
        let failures = validate(&batch).unwrap_err().into_failures();
        let kinds: Vec<_> = failures
            .iter()
            .map(|(at, error)| (*at, error.kind()))
            .collect();
        assert_eq!(
            kinds,
            [(1, ErrorKind::EmptyMessage), (2, ErrorKind::TooLarge)]
        );
    }

    #[test]
    fn limits_are_those_of_dynamodb() {
        let put = |data: usize| {
            let put = Put::builder()
                .table_name("abc")
                .item("d", bytes(vec![0; data]));
            TransactWriteItem::builder()
                .put(put.build().unwrap())
                .build()
        };
        assert!(check_limits(&vec![put(1); 100]).is_ok());
        assert!(check_limits(&vec![put(400_000); 10]).is_ok());
        for (items, name) in [
            (vec![put(1); 101], "items=101"),
            (vec![put(400_000); 11], "size=4400011"),
            (vec![put(1), put(409_600)], "item=1"),
        ] {
            let error = check_limits(&items).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
