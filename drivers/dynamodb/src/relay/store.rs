//! What the relay asks of the outbox table.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    Delete, DeleteRequest, KeysAndAttributes, Put, PutRequest, TransactWriteItem, WriteRequest,
};
use bytes::Bytes;
use futures_util::future::try_join_all;
use streams_core::{Backoff, Result};
use streams_outbox::{Cleanup, Rest, Row, Verdict};
use tokio::time::sleep;

use crate::DRIVER;
use crate::error::{code, error, transaction};
use crate::item::{Item, bytes, get_bytes, get_number, get_text, item, number, text};
use crate::outbox::Outbox;
use crate::outbox::row::{
    ATTEMPTS, KEPT, LAST_ERROR, MESSAGES, PARTITION, RAW_DATA, READY, RowId, SEQUENCE, SET_ASIDE,
    key,
};
use crate::table::{TTL, built};

/// What DynamoDB takes in one request.
const WRITES: usize = 25;
const READS: usize = 100;
/// How many of them go at the same time.
const PARALLEL: usize = 8;

/// Before what DynamoDB has left undone is asked again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Rows that were read together, in their order.
#[derive(Default)]
pub(crate) struct Window {
    pub(crate) rows: Vec<Row>,
    /// How old the first one is.
    pub(crate) age: Option<Duration>,
}

/// How much of a partition is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) partition: &'a str,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// Nothing from this place on.
    pub(crate) before: Option<&'a str>,
}

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) outbox: Outbox,
    cleanup: Cleanup,
}

impl Store {
    pub(crate) fn new(outbox: Outbox, cleanup: Cleanup) -> Self {
        Self { outbox, cleanup }
    }

    /// Rows from the beginning of a partition, without those that are known.
    pub(crate) async fn look(
        &self,
        look: Look<'_>,
        known: impl Fn(&str) -> bool,
    ) -> Result<Window> {
        let mut found: Vec<(RowId, Item)> = Vec::new();
        let mut size = 0;
        let mut from = None;
        loop {
            let limit = i32::try_from(look.rows).unwrap_or(i32::MAX);
            let query = self.query(look.partition, look.before.unwrap_or("~"));
            let query = query.limit(limit).set_exclusive_start_key(from);
            let page = query.send().await;
            let page = page.map_err(|source| self.failed(error(&source, "read")))?;
            for one in page.items.unwrap_or_default() {
                let id = RowId::new(look.partition, get_text(&one, SEQUENCE).unwrap_or_default());
                if !known(id.as_str()) {
                    size += get_bytes(&one, RAW_DATA).map_or(0, <[u8]>::len);
                    found.push((id, one));
                }
            }
            from = page.last_evaluated_key;
            if from.is_none() || found.len() >= look.rows || size >= look.bytes {
                break;
            }
        }
        self.confirm(look.partition, &mut found, &known).await?;
        let age = found.first().and_then(|(id, _)| self.age(id));
        let rows = found.into_iter().map(|(id, one)| row(&id, one)).collect();
        Ok(Window { rows, age })
    }

    /// Looks again, at the places alone. A query is no snapshot: while it was under way a row may have
    /// been committed where it had been already, and then another of the same key where it had not.
    /// What was found is in order up to the first row that has come since.
    async fn confirm(
        &self,
        partition: &str,
        found: &mut Vec<(RowId, Item)>,
        known: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let Some((last, _)) = found.last() else {
            return Ok(());
        };
        let last = last.sequence().to_owned();
        let places: HashSet<_> = found.iter().map(|(id, _)| id.as_str().to_owned()).collect();
        let mut from = None;
        loop {
            let query = self.query(partition, &last).projection_expression(SEQUENCE);
            let page = query.set_exclusive_start_key(from).send().await;
            let page = page.map_err(|source| self.failed(error(&source, "read")))?;
            for one in page.items.unwrap_or_default() {
                let id = RowId::new(partition, get_text(&one, SEQUENCE).unwrap_or_default());
                if !places.contains(id.as_str()) && !known(id.as_str()) {
                    found.retain(|(other, _)| other.sequence() < id.sequence());
                    return Ok(());
                }
            }
            from = page.last_evaluated_key;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    fn query(
        &self,
        partition: &str,
        last: &str,
    ) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
        let query = self.outbox.dynamodb().client.query();
        query
            .table_name(&self.outbox.table().name)
            .key_condition_expression(format!("{PARTITION} = :partition AND {SEQUENCE} <= :last"))
            .expression_attribute_values(":partition", text(partition))
            .expression_attribute_values(":last", text(last))
            .consistent_read(true)
    }

    /// For how long a row has been there, by its place.
    pub(crate) fn age(&self, id: &RowId) -> Option<Duration> {
        let place = u64::from_str_radix(id.sequence().get(..16)?, 16).ok()?;
        let now = self.outbox.dynamodb().clock.micros();
        Some(Duration::from_micros(now.saturating_sub(place)))
    }

    /// These rows as they are now, in this order; and those of them that are not there any more.
    pub(crate) async fn again(&self, ids: &[String]) -> Result<(Vec<Row>, Vec<String>)> {
        let chunks: Vec<_> = ids.chunks(READS).collect();
        let mut found: HashMap<String, Item> = HashMap::new();
        for some in chunks.chunks(PARALLEL) {
            let reads = some.iter().map(|chunk| self.get(chunk));
            for items in try_join_all(reads).await? {
                found.extend(items.into_iter().map(|one| {
                    let place = |name| get_text(&one, name).unwrap_or_default();
                    let id = RowId::new(place(PARTITION), place(SEQUENCE));
                    (id.as_str().to_owned(), one)
                }));
            }
        }
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for id in ids {
            match found.remove(id) {
                Some(one) => rows.push(row(&RowId::from_text(id), one)),
                None => gone.push(id.clone()),
            }
        }
        Ok((rows, gone))
    }

    async fn get(&self, ids: &[String]) -> Result<Vec<Item>> {
        let table = &self.outbox.table().name;
        let keys = ids.iter().map(|id| RowId::from_text(id).key()).collect();
        let keys = KeysAndAttributes::builder().set_keys(Some(keys));
        let keys = keys.consistent_read(true).build().map_err(built)?;
        let mut left = Some(HashMap::from([(table.clone(), keys)]));
        let mut all = Vec::new();
        for attempt in 1.. {
            let get = self.outbox.dynamodb().client.batch_get_item();
            let got = get.set_request_items(left.take()).send().await;
            let got = got.map_err(|source| self.failed(error(&source, "read")))?;
            let mut items = got.responses.unwrap_or_default();
            all.extend(items.remove(table).unwrap_or_default());
            left = got.unprocessed_keys.filter(|left| !left.is_empty());
            if left.is_none() {
                break;
            }
            sleep(BACKOFF.delay(attempt)).await;
        }
        Ok(all)
    }

    /// Does to each row what its verdict says. Those that are done take their bytes with them, where
    /// they are to be kept.
    pub(crate) async fn settle(
        &self,
        rows: &[(String, Verdict)],
        raw_data: &HashMap<String, Bytes>,
    ) -> Result<()> {
        let mut writes = Vec::new();
        for (id, verdict) in rows {
            let row = RowId::from_text(id);
            match verdict {
                Verdict::Done => {
                    // The copy first: what is deleted alone is not kept, and that is all.
                    if let (Cleanup::Keep(time), Some(raw_data)) = (self.cleanup, raw_data.get(id))
                    {
                        writes.push(self.kept(&row, raw_data, time)?);
                    }
                    let delete = DeleteRequest::builder().set_key(Some(row.key()));
                    let delete = delete.build().map_err(built)?;
                    writes.push(WriteRequest::builder().delete_request(delete).build());
                }
                Verdict::Deferred {
                    error: None,
                    rest: None,
                    ..
                } => {}
                Verdict::Deferred {
                    attempts,
                    error,
                    rest,
                    ..
                } => {
                    self.defer(&row, *attempts, error.as_deref(), rest.as_ref())
                        .await?;
                }
                Verdict::SetAside {
                    attempts,
                    error,
                    rest,
                } => {
                    self.set_aside(&row, *attempts, error, rest.as_ref())
                        .await?;
                }
            }
        }
        let chunks: Vec<_> = writes.chunks(WRITES).collect();
        for some in chunks.chunks(PARALLEL) {
            try_join_all(some.iter().map(|chunk| self.write(chunk))).await?;
        }
        Ok(())
    }

    async fn write(&self, writes: &[WriteRequest]) -> Result<()> {
        let table = &self.outbox.table().name;
        let mut left = Some(HashMap::from([(table.clone(), writes.to_vec())]));
        for attempt in 1.. {
            let write = self.outbox.dynamodb().client.batch_write_item();
            let written = write.set_request_items(left.take()).send().await;
            let written = written.map_err(|source| self.failed(error(&source, "settle")))?;
            left = written.unprocessed_items.filter(|left| !left.is_empty());
            if left.is_none() {
                break;
            }
            sleep(BACKOFF.delay(attempt)).await;
        }
        Ok(())
    }

    fn kept(&self, row: &RowId, raw_data: &[u8], time: Duration) -> Result<WriteRequest> {
        let partition = row.partition().strip_prefix(READY).unwrap_or_default();
        let mut kept = key(&format!("{KEPT}{partition}"), row.sequence());
        let expires = self.outbox.dynamodb().clock.seconds() + time.as_secs().max(1);
        kept.insert(RAW_DATA.to_owned(), bytes(raw_data));
        kept.insert(TTL.to_owned(), number(expires));
        let put = PutRequest::builder().set_item(Some(kept)).build();
        Ok(WriteRequest::builder()
            .put_request(put.map_err(built)?)
            .build())
    }

    /// Keeps with a row that it could not be written, or what is left of it.
    async fn defer(
        &self,
        row: &RowId,
        attempts: u32,
        failure: Option<&str>,
        rest: Option<&Rest>,
    ) -> Result<()> {
        let (set, values) = changes(attempts, failure, rest);
        let update = self.outbox.dynamodb().client.update_item();
        let update = update
            .table_name(&self.outbox.table().name)
            .set_key(Some(row.key()))
            .update_expression(format!("SET {set}"))
            .condition_expression(format!("attribute_exists({PARTITION})"))
            .set_expression_attribute_values(Some(values));
        match update.send().await {
            Ok(_) => Ok(()),
            // It was deleted meanwhile, by hand perhaps.
            Err(source) if code(&source) == Some("ConditionalCheckFailedException") => Ok(()),
            Err(source) => Err(self.failed(error(&source, "settle"))),
        }
    }

    /// Moves a row out of the way of the others.
    async fn set_aside(
        &self,
        row: &RowId,
        attempts: u32,
        failure: &str,
        rest: Option<&Rest>,
    ) -> Result<()> {
        let table = &self.outbox.table().name;
        let get = self.outbox.dynamodb().client.get_item().table_name(table);
        let got = get
            .set_key(Some(row.key()))
            .consistent_read(true)
            .send()
            .await;
        let got = got.map_err(|source| self.failed(error(&source, "settle")))?;
        let Some(mut aside) = got.item else {
            return Ok(());
        };
        aside.insert(PARTITION.to_owned(), text(SET_ASIDE));
        aside.insert(ATTEMPTS.to_owned(), number(attempts));
        aside.insert(LAST_ERROR.to_owned(), text(failure));
        if let Some(rest) = rest {
            aside.insert(RAW_DATA.to_owned(), bytes(rest.raw_data.clone()));
            aside.insert(MESSAGES.to_owned(), number(rest.messages));
        }
        let put = Put::builder().table_name(table).set_item(Some(aside));
        let delete = Delete::builder().table_name(table).set_key(Some(row.key()));
        let write = self.outbox.dynamodb().client.transact_write_items();
        let written = write
            .transact_items(
                TransactWriteItem::builder()
                    .put(put.build().map_err(built)?)
                    .build(),
            )
            .transact_items(
                TransactWriteItem::builder()
                    .delete(delete.build().map_err(built)?)
                    .build(),
            )
            .send()
            .await;
        written.map_err(|source| self.failed(transaction(&source, 2)))?;
        Ok(())
    }

    fn failed(&self, error: streams_core::Error) -> streams_core::Error {
        error.with("table", self.outbox.table())
    }
}

fn changes(attempts: u32, failure: Option<&str>, rest: Option<&Rest>) -> (String, Item) {
    let mut set = format!("{ATTEMPTS} = :attempts");
    let mut values = item([(":attempts", number(attempts))]);
    if let Some(failure) = failure {
        set += &format!(", {LAST_ERROR} = :error");
        values.insert(":error".to_owned(), text(failure));
    }
    if let Some(rest) = rest {
        set += &format!(", {RAW_DATA} = :raw_data, {MESSAGES} = :messages");
        values.insert(":raw_data".to_owned(), bytes(rest.raw_data.clone()));
        values.insert(":messages".to_owned(), number(rest.messages));
    }
    (set, values)
}

/// A row of an item of the table. One without bytes is corrupt, like one with wrong bytes.
pub(crate) fn row(id: &RowId, mut item: Item) -> Row {
    let attempts = get_number(&item, ATTEMPTS).unwrap_or_default();
    let raw_data = match item.remove(RAW_DATA) {
        Some(aws_sdk_dynamodb::types::AttributeValue::B(blob)) => blob.into_inner().into(),
        _ => Bytes::new(),
    };
    Row::new(DRIVER, id.as_str().to_owned(), attempts, raw_data)
}
