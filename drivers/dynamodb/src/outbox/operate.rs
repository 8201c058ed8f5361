//! What operators ask of an outbox.

use aws_sdk_dynamodb::types::{Delete, Put, Select, TransactWriteItem};
use streams_core::{Result, ksuid};
use streams_outbox::decode;

use super::Outbox;
use super::row::{
    ATTEMPTS, LAST_ERROR, MESSAGES, PARTITION, RAW_DATA, SEQUENCE, SET_ASIDE, key, place, ready,
};
use crate::DRIVER;
use crate::error::{error, transaction};
use crate::item::{Item, get_number, get_text, text};
use crate::table::built;

/// A batch that the relay has set aside after too many attempts, or because it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// The batch, as [`Outbox::retry`] takes it.
    pub batch_id: String,
    /// How many messages it has.
    pub messages: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// What went wrong the last time.
    pub error: Option<String>,
}

impl Outbox {
    /// How many batches wait to be relayed. Those set aside are not counted. It reads all that waits:
    /// for tests, and for operators now and then.
    ///
    /// # Errors
    /// When DynamoDB cannot be reached or the table does not exist.
    pub async fn pending(&self) -> Result<u64> {
        let mut count = 0;
        for partition in 0..self.partitions().await? {
            let mut from = None;
            loop {
                let query = self
                    .dynamodb()
                    .client
                    .query()
                    .table_name(&self.table().name);
                let query = query
                    .key_condition_expression(format!("{PARTITION} = :partition"))
                    .expression_attribute_values(":partition", text(ready(partition)))
                    .select(Select::Count)
                    .consistent_read(true)
                    .set_exclusive_start_key(from);
                let found = query.send().await;
                let found = found.map_err(|source| error(&source, "pending"))?;
                count += u64::try_from(found.count).unwrap_or_default();
                from = found.last_evaluated_key;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(count)
    }

    /// The batches that were set aside, oldest first, at most `limit`.
    ///
    /// # Errors
    /// As [`pending`](Outbox::pending).
    pub async fn set_aside(&self, limit: u32) -> Result<Vec<SetAside>> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut all = Vec::new();
        let mut from = None;
        while all.len() < limit {
            let query = self
                .dynamodb()
                .client
                .query()
                .table_name(&self.table().name);
            let query = query
                .key_condition_expression(format!("{PARTITION} = :partition"))
                .expression_attribute_values(":partition", text(SET_ASIDE))
                .projection_expression(format!("{SEQUENCE}, {MESSAGES}, {ATTEMPTS}, {LAST_ERROR}"))
                .consistent_read(true)
                .set_exclusive_start_key(from);
            let found = query.send().await;
            let found = found.map_err(|source| error(&source, "set_aside"))?;
            all.extend(found.items.unwrap_or_default().iter().map(batch));
            from = found.last_evaluated_key;
            if from.is_none() {
                break;
            }
        }
        all.truncate(limit);
        Ok(all)
    }

    /// Makes a batch that was set aside ready again, with all its attempts before it, behind all that
    /// wait. `false` says that no such batch is set aside.
    ///
    /// # Errors
    /// As [`pending`](Outbox::pending).
    pub async fn retry(&self, batch_id: &str) -> Result<bool> {
        let table = &self.table().name;
        let get = self.dynamodb().client.get_item().table_name(table);
        let get = get
            .set_key(Some(key(SET_ASIDE, batch_id)))
            .consistent_read(true);
        let got = get.send().await;
        let got = got.map_err(|source| error(&source, "retry"))?;
        let Some(mut row) = got.item else {
            return Ok(false);
        };
        let raw_data = crate::item::get_bytes(&row, RAW_DATA).unwrap_or_default();
        let messages = decode(DRIVER, batch_id, raw_data).unwrap_or_default();
        let partitions = self.partitions().await?;
        let hash = messages.iter().find_map(super::row::KeyHash::of);
        let partition = hash.map_or(0, |hash| hash.partition(partitions));
        let sequence = format!("{}-{}", place(self.place()), ksuid()?);
        row.insert(PARTITION.to_owned(), text(ready(partition)));
        row.insert(SEQUENCE.to_owned(), text(sequence));
        row.remove(ATTEMPTS);

        let put = Put::builder().table_name(table).set_item(Some(row));
        let delete = Delete::builder()
            .table_name(table)
            .set_key(Some(key(SET_ASIDE, batch_id)))
            .condition_expression(format!("attribute_exists({PARTITION})"));
        let write = self.dynamodb().client.transact_write_items();
        let write = write
            .transact_items(
                TransactWriteItem::builder()
                    .put(put.build().map_err(built)?)
                    .build(),
            )
            .transact_items(
                TransactWriteItem::builder()
                    .delete(delete.build().map_err(built)?)
                    .build(),
            );
        match write.send().await {
            Ok(_) => {
                self.notify();
                Ok(true)
            }
            Err(source) => {
                let reasons = crate::error::reasons(&source).unwrap_or_default();
                let gone = |code| code == Some("ConditionalCheckFailed");
                if reasons.iter().any(|reason| gone(reason.code())) {
                    return Ok(false);
                }
                Err(transaction(&source, 2))
            }
        }
    }
}

fn batch(item: &Item) -> SetAside {
    SetAside {
        batch_id: get_text(item, SEQUENCE).unwrap_or_default().to_owned(),
        messages: get_number(item, MESSAGES).unwrap_or_default(),
        attempts: get_number(item, ATTEMPTS).unwrap_or_default(),
        error: get_text(item, LAST_ERROR).map(str::to_owned),
    }
}
