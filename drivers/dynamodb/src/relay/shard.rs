//! The relay by streams, for one shard.
//!
//! Rows come with the records of their insertion, in the order of the commits. The table stays the
//! truth: what is relayed is deleted there, what fails waits there, and what the stream has forgotten is
//! still there. The checkpoint is the last record before the first one that is not done, so whoever
//! takes over reads what was in the work once more, and skips what is not in the table any more.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::types::{
    AttributeValue as Value, OperationType, Record, ShardIteratorType,
};
use bytes::Bytes;
use streams_core::{Error, ErrorKind, Result};
use streams_outbox::stop::told;
use streams_outbox::{Poll, Row};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::is_final;
use super::query::is_lost;
use super::session::{DATABASE_BACKOFF, Session, Shared, Step, rest};
use super::shards::{PART, Start};
use crate::DRIVER;
use crate::error::{code, error};
use crate::outbox::row::{ATTEMPTS, PARTITION, RAW_DATA, READY, RowId, SEQUENCE, place, ready};

/// A shard may be read five times a second.
const SHORTEST_POLL: Duration = Duration::from_millis(250);
/// How often the checkpoint is written, at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// What a request brings, at most.
const RECORDS: i32 = 1000;

/// Relays a shard until it is told to stop, or all of it is done after it was closed: then `true`.
///
/// # Errors
/// `LeaseLost`, and what does not get better by waiting.
pub(crate) async fn run(
    shared: Arc<Shared>,
    part: String,
    arn: String,
    start: Start,
    mut stopped: watch::Receiver<bool>,
) -> Result<bool> {
    let clock = &shared.store.outbox.dynamodb().clock;
    let began = clock.seconds();
    let shortest = shared.config.poll.0.max(SHORTEST_POLL);
    let longest = shared.config.poll.1.max(shortest);
    let mut notified = shared.store.outbox.notified();
    let mut worker = Worker {
        shard: part.strip_prefix(PART).unwrap_or_default().to_owned(),
        arn,
        gap: start == Start::Gap,
        position: match start {
            Start::After(at) => Some(at),
            Start::Beginning | Start::Gap => None,
        },
        iterator: None,
        closed: false,
        began,
        pending: Vec::new(),
        log: VecDeque::new(),
        checkpoint: None,
        written: Instant::now(),
        session: Session::new(shared, part),
    };
    let mut poll = Poll::new(shortest, longest);
    let mut failures = 0;
    while !*stopped.borrow() {
        notified.mark_unchanged();
        let again = Instant::now() + SHORTEST_POLL;
        let step = match worker.step(&mut stopped).await {
            Ok(step) => step,
            Err(error) if is_final(&error) || is_lost(&error) => return Err(error),
            Err(error) => {
                failures += 1;
                let part = &worker.session.part;
                tracing::warn!(%error, failures, part, "the relay waits for DynamoDB");
                tokio::select! {
                    () = sleep(DATABASE_BACKOFF.delay(failures)) => {}
                    () = told(&mut stopped) => {}
                }
                continue;
            }
        };
        failures = 0;
        match step {
            Step::Worked => {
                poll.found();
                // Not more often than a shard may be read.
                rest(again, &mut stopped).await;
            }
            Step::Idle(_) if worker.is_done() => {
                worker.keep_checkpoint(true).await?;
                return Ok(true);
            }
            Step::Idle(next) => {
                let until = Instant::now() + poll.empty();
                tokio::select! {
                    () = tokio::time::sleep_until(until.min(next.unwrap_or(until))) => {}
                    _ = notified.changed() => poll.found(),
                    () = told(&mut stopped) => {}
                }
            }
            Step::Down(error) => worker.session.wait(&error, &mut stopped).await,
        }
    }
    worker.keep_checkpoint(true).await?;
    Ok(false)
}

struct Worker {
    session: Session,
    arn: String,
    shard: String,
    /// Rows may be in the table that the stream does not have any more.
    gap: bool,
    /// The last record that was read.
    position: Option<String>,
    iterator: Option<String>,
    closed: bool,
    /// By the clock of DynamoDB, in seconds. What was committed before may have been relayed.
    began: u64,
    /// Rows that were read and could not be written, because the destination was down.
    pending: Vec<String>,
    /// What was read: up to which record, and which of its rows are not done. What was swept from the
    /// table has no record.
    log: VecDeque<(Option<String>, Vec<String>)>,
    /// The last record before the first one that is not done, if it is not written yet.
    checkpoint: Option<String>,
    written: Instant,
}

impl Worker {
    fn is_done(&self) -> bool {
        self.closed && self.pending.is_empty() && self.session.deferred.is_empty()
    }

    async fn step(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<Step> {
        if self.gap {
            if !self.sweep(stopped).await? {
                return Ok(Step::Idle(None));
            }
            self.gap = false;
        }
        let (mut rows, next) = self.session.due().await?;
        let behind = self.session.is_full() || self.pending.len() >= self.session.most();
        let mut ids = std::mem::take(&mut self.pending);
        let mut fresh = Vec::new();
        if !self.closed && !behind {
            match self.read().await {
                Ok((records, verify)) => {
                    let first = records.first().map(|row| RowId::from_text(&row.id));
                    let shared = &self.session.shared;
                    let lag = first.and_then(|id| shared.store.age(&id));
                    let deferred = self.session.deferred.len();
                    let lag = Some(lag.unwrap_or_default());
                    shared.metrics.part(&self.session.part, deferred, lag);
                    for row in records {
                        if verify || !ids.is_empty() {
                            ids.push(row.id);
                        } else {
                            fresh.push(row);
                        }
                    }
                }
                Err(error) => {
                    self.pending = ids;
                    return Err(error);
                }
            }
        }
        if !ids.is_empty() {
            match self.session.shared.store.again(&ids).await {
                Ok((there, _)) => fresh.extend(there),
                Err(error) => {
                    self.pending = ids;
                    return Err(error);
                }
            }
        }
        rows.extend(fresh);
        let step = if rows.is_empty() {
            Step::Idle(next)
        } else {
            let new = rows.iter().map(|row| row.id.clone());
            let new: Vec<_> = new
                .filter(|id| !self.session.deferred.contains(id))
                .collect();
            // If this fails, nobody knows which of them were written.
            self.pending.clone_from(&new);
            let step = self.session.forward(rows).await?;
            if !matches!(step, Step::Down(_)) {
                self.pending.clear();
            }
            step
        };
        self.keep_checkpoint(false).await?;
        Ok(step)
    }

    /// Reads on. The rows, and whether another relay may have relayed them already.
    async fn read(&mut self) -> Result<(Vec<Row>, bool)> {
        let iterator = match self.iterator.take() {
            Some(iterator) => iterator,
            None => match self.iterator().await? {
                Some(iterator) => iterator,
                None => return Ok((Vec::new(), false)),
            },
        };
        let client = &self.session.shared.store.outbox.dynamodb().streams;
        let get = client
            .get_records()
            .shard_iterator(&iterator)
            .limit(RECORDS);
        let got = match get.send().await {
            Ok(got) => got,
            Err(source) => {
                let failed = error(&source, "read").with("shard", &self.shard);
                return match code(&source) {
                    // From where it was, with a new one.
                    Some("ExpiredIteratorException") => Ok((Vec::new(), false)),
                    Some("TrimmedDataAccessException") => {
                        self.trimmed();
                        Ok((Vec::new(), false))
                    }
                    Some("ResourceNotFoundException") => Err(self.vanished(failed)),
                    _ => {
                        self.iterator = Some(iterator);
                        Err(failed)
                    }
                };
            }
        };
        self.closed = got.next_shard_iterator.is_none();
        self.iterator = got.next_shard_iterator;
        let records = got.records.unwrap_or_default();
        let last = records
            .iter()
            .rev()
            .find_map(|record| record.dynamodb.as_ref()?.sequence_number.clone());
        let Some(last) = last else {
            return Ok((Vec::new(), false));
        };
        let verify = records.iter().any(|record| {
            let record = record.dynamodb.as_ref();
            let made = record.and_then(|record| record.approximate_creation_date_time);
            made.is_none_or(|made| u64::try_from(made.secs()).unwrap_or(0) <= self.began)
        });
        let rows: Vec<_> = records.into_iter().filter_map(row).collect();
        let ids = rows.iter().map(|row| row.id.clone()).collect();
        self.log.push_back((Some(last.clone()), ids));
        self.position = Some(last);
        Ok((rows, verify))
    }

    async fn iterator(&mut self) -> Result<Option<String>> {
        let client = &self.session.shared.store.outbox.dynamodb().streams;
        let get = client
            .get_shard_iterator()
            .stream_arn(&self.arn)
            .shard_id(&self.shard);
        let get = match &self.position {
            Some(at) => get
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .sequence_number(at),
            None => get.shard_iterator_type(ShardIteratorType::TrimHorizon),
        };
        match get.send().await {
            Ok(got) => {
                if got.shard_iterator.is_none() {
                    self.closed = true;
                }
                Ok(got.shard_iterator)
            }
            Err(source) if code(&source) == Some("TrimmedDataAccessException") => {
                self.trimmed();
                Ok(None)
            }
            Err(source) => {
                let failed = error(&source, "read").with("shard", &self.shard);
                if code(&source) == Some("ResourceNotFoundException") {
                    return Err(self.vanished(failed));
                }
                Err(failed)
            }
        }
    }

    /// The stream has forgotten records that were not read: it keeps them for a day.
    fn trimmed(&mut self) {
        let part = &self.session.part;
        tracing::warn!(
            part,
            "the stream has forgotten records; the relay takes the rows of the table"
        );
        self.position = None;
        self.gap = true;
    }

    /// The shard is not there any more, and what it had may still be in the table: whoever lists the
    /// shards finds out.
    fn vanished(&self, failed: Error) -> Error {
        Error::new(
            ErrorKind::LeaseLost,
            "the shard is gone, with its stream perhaps; the relay looks for others",
        )
        .source(failed)
        .with("shard", &self.shard)
    }

    /// Relays what is in the table from before now. `false` says that it was told to stop.
    async fn sweep(&mut self, stopped: &mut watch::Receiver<bool>) -> Result<bool> {
        let outbox = self.session.shared.store.outbox.clone();
        // Also of clocks that are a little fast; but not all that comes in meanwhile, without end.
        let before = place(outbox.dynamodb().clock.micros() + 60_000_000);
        let partitions = outbox.partitions().await?;
        for partition in 0..partitions {
            let partition = ready(partition);
            loop {
                if *stopped.borrow() {
                    return Ok(false);
                }
                let full = self.session.is_full();
                match self.session.step(&partition, Some(&before)).await? {
                    Step::Worked => {}
                    Step::Idle(_) if !full => break,
                    Step::Idle(next) => {
                        let soon = Instant::now() + SHORTEST_POLL;
                        rest(next.unwrap_or(soon), stopped).await;
                    }
                    Step::Down(error) => self.session.wait(&error, stopped).await,
                }
            }
        }
        // The stream brings once more what has just been relayed.
        self.began = outbox.dynamodb().clock.seconds() + 1;
        let waiting = self.session.deferred.ids();
        self.log.push_front((None, waiting));
        Ok(true)
    }

    /// Writes the checkpoint when it is time. That it could not be written is no reason to stop: more
    /// would be read again by whoever takes over.
    async fn keep_checkpoint(&mut self, now: bool) -> Result<()> {
        let pending: HashSet<_> = self.pending.iter().map(String::as_str).collect();
        let deferred = &self.session.deferred;
        let undone = |id: &String| deferred.contains(id) || pending.contains(id.as_str());
        while let Some((at, ids)) = self.log.front_mut() {
            ids.retain(undone);
            if !ids.is_empty() {
                break;
            }
            if let Some(at) = at.take() {
                self.checkpoint = Some(at);
            }
            self.log.pop_front();
        }
        if !now && self.written.elapsed() < CHECKPOINT_INTERVAL {
            return Ok(());
        }
        let Some(at) = &self.checkpoint else {
            return Ok(());
        };
        let leases = &self.session.shared.leases;
        match leases.checkpoint(&self.session.part, at).await {
            Ok(()) => self.checkpoint = None,
            Err(error) if is_lost(&error) || is_final(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, part = self.session.part, "the checkpoint could not be kept");
            }
        }
        self.written = Instant::now();
        Ok(())
    }
}

/// The row that a record tells of: that of an insertion of messages that wait.
fn row(record: Record) -> Option<Row> {
    if record.event_name != Some(OperationType::Insert) {
        return None;
    }
    let mut image = record.dynamodb?.new_image?;
    let get = |name: &str| image.get(name)?.as_s().ok().cloned();
    let partition = get(PARTITION).filter(|partition| partition.starts_with(READY))?;
    let id = RowId::new(&partition, &get(SEQUENCE)?);
    let attempts = image
        .get(ATTEMPTS)
        .and_then(|value| value.as_n().ok()?.parse().ok());
    let raw_data = match image.remove(RAW_DATA) {
        Some(Value::B(blob)) => blob.into_inner().into(),
        _ => Bytes::new(),
    };
    Some(Row::new(
        DRIVER,
        id.as_str().to_owned(),
        attempts.unwrap_or_default(),
        raw_data,
    ))
}
