//! One pass over some rows: they are written in one call, and each gets its verdict.
//!
//! It knows nothing of databases: rows come in, verdicts go out.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use streams_core::{Backoff, Error, ErrorKind, Message, Result, StreamName, WriteError, Writer};
use tokio::time::Instant;

use crate::deferred::{Deferred, Lane};
use crate::message::{decode_bytes, encode};

/// The most characters of an error that are kept with its row: as many as the column has in SQL.
const LONGEST_ERROR: usize = 255;

/// A row of the outbox, in the order of the others.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// How often it has been tried before.
    pub attempts: u32,
    raw_data: Bytes,
    driver: &'static str,
    again: bool,
    /// Decoded by who needs them first: mostly the pass, while others read more rows.
    messages: OnceLock<Result<Vec<Message>>>,
}

impl Row {
    /// A row as it was read; `attempts` is how often it has been tried before. If it cannot be decoded,
    /// a pass sets it aside, with an error that names the driver.
    pub fn new(driver: &'static str, id: String, attempts: u32, raw_data: Bytes) -> Self {
        Self {
            id,
            attempts,
            raw_data,
            driver,
            again: false,
            messages: OnceLock::new(),
        }
    }

    /// It was deferred, and its turn has come.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// Its bytes in the table, of which the data of its messages are slices.
    #[must_use]
    pub fn raw_data(&self) -> &Bytes {
        &self.raw_data
    }

    /// The streams of its messages.
    pub fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.messages().iter().flatten().map(Message::stream)
    }

    fn messages(&self) -> &Result<Vec<Message>> {
        self.messages
            .get_or_init(|| decode_row(self.driver, &self.id, &self.raw_data))
    }

    fn into_messages(self) -> Result<Vec<Message>> {
        let decode = || decode_row(self.driver, &self.id, &self.raw_data);
        self.messages.into_inner().unwrap_or_else(decode)
    }

    /// Whether it may be at fault for a failure itself. One that has not failed before, and waited
    /// for none that has, only fails when others do too.
    fn is_suspect(&self) -> bool {
        self.again || self.attempts > 0
    }
}

fn decode_row(driver: &'static str, id: &str, raw_data: &Bytes) -> Result<Vec<Message>> {
    let messages = decode_bytes(driver, id, raw_data.clone())?;
    if messages.is_empty() {
        let error = Error::new(ErrorKind::Codec, "the row holds no messages");
        return Err(error.operation("decode").driver(driver).with("batch", id));
    }
    Ok(messages)
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The driver's name in errors.
    pub driver: &'static str,
    /// After how many attempts a row is set aside.
    pub attempts: u32,
    /// How long it waits before it is tried again.
    pub backoff: Backoff,
    /// How long the write may take.
    pub limit: Duration,
    /// What to do where that is too short, for the error.
    pub advice: &'static str,
    /// It is known that the destination takes messages, so failures are the rows' own.
    pub proven: bool,
}

/// What a pass has done.
#[derive(Debug, Default)]
pub struct Pass {
    /// Each row with its verdict, in their order. Those of a write that found the destination down
    /// have none: they stay as they are.
    pub rows: Vec<(String, Verdict)>,
    /// How many messages were written.
    pub written: u64,
    /// How many were not.
    pub failures: u64,
    /// Nothing was written, and it is not for the rows: try the same again later.
    pub down: Option<Error>,
}

impl Pass {
    /// Keeps in mind what was deferred, and forgets what is out of the way.
    pub fn remember(self, deferred: &mut Deferred) {
        let now = Instant::now();
        for (id, verdict) in self.rows {
            match verdict {
                Verdict::Done => deferred.remove(&id),
                Verdict::Deferred {
                    attempts,
                    error,
                    delay,
                    lanes,
                    ..
                } => {
                    if let Some(error) = &error {
                        tracing::warn!(batch = id, attempts, error, "a row could not be written");
                    }
                    deferred.put(&id, now + delay, error.is_some(), lanes);
                }
                Verdict::SetAside {
                    attempts, error, ..
                } => {
                    tracing::error!(batch = id, attempts, error, "a row was set aside");
                    deferred.remove(&id);
                }
            }
        }
    }
}

/// What becomes of a row.
#[derive(Debug)]
pub enum Verdict {
    /// All of it was written.
    Done,
    /// It is tried again after those it waits for.
    Deferred {
        /// How often it has been tried by now.
        attempts: u32,
        /// Why it failed; `None` if it only waits for another one with a key of its own.
        error: Option<String>,
        /// How long it waits at least.
        delay: Duration,
        /// What is left of it; `None` if that is all.
        rest: Option<Rest>,
        /// What must not overtake it.
        lanes: Vec<Lane>,
    },
    /// It is tried no more until somebody asks for it.
    SetAside {
        /// How often it has been tried.
        attempts: u32,
        /// Why it failed the last time.
        error: String,
        /// What is left of it; `None` if that is all.
        rest: Option<Rest>,
    },
}

/// What is left of a row of which a part was written.
#[derive(Debug)]
pub struct Rest {
    /// How many messages.
    pub messages: usize,
    /// Their bytes, for the row.
    pub raw_data: Vec<u8>,
}

/// What a row is to do in this pass.
enum Part {
    Corrupt(String),
    Wait(Vec<Lane>),
    /// Write so many messages.
    Write(usize),
}

/// Writes rows. Those whose keys are `deferred` already wait, unless it is their turn.
pub async fn pass(rows: Vec<Row>, writer: &dyn Writer, deferred: &Deferred, terms: Terms) -> Pass {
    let mut fresh = false;
    let mut batch = Vec::new();
    let mut closed = HashSet::new();
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, attempts, suspect) = (row.id.clone(), row.attempts, row.is_suspect());
        let again = row.again;
        let part = match row.into_messages() {
            Err(error) => Part::Corrupt(text(&error)),
            Ok(messages) => {
                let lanes = deferred.lanes(&messages);
                let behind =
                    |lane: &Lane| closed.contains(lane) || (!again && deferred.holds(*lane));
                let waits = lanes.iter().any(behind);
                if waits || suspect {
                    // Nothing passes a row that may fail.
                    closed.extend(lanes.iter().copied());
                }
                if waits {
                    Part::Wait(lanes)
                } else {
                    fresh |= !suspect;
                    let count = messages.len();
                    batch.extend(messages);
                    Part::Write(count)
                }
            }
        };
        parts.push((id, attempts, part));
    }

    let failures = write(writer, &batch, terms).await;
    let mut done = Pass {
        written: (batch.len() - failures.len()) as u64,
        failures: failures.len() as u64,
        ..Pass::default()
    };
    let nothing = !batch.is_empty() && failures.len() == batch.len();
    let all = |of: fn(&Error) -> bool| failures.iter().all(|(_, error)| of(error));
    let down = all(Error::is_retryable) && fresh && !terms.proven;
    if nothing && (down || all(|error| error.kind() == ErrorKind::Closed)) {
        done.down = failures.into_iter().next().map(|(_, error)| error);
        done.rows = parts
            .into_iter()
            .filter_map(|(id, attempts, part)| match part {
                Part::Corrupt(error) => Some((id, set_aside(attempts, error))),
                Part::Wait(_) | Part::Write(_) => None,
            })
            .collect();
        return done;
    }

    let mut failures = failures.into_iter().peekable();
    let mut failing = HashSet::new();
    let mut start = 0;
    for (id, attempts, part) in parts {
        let verdict = match part {
            Part::Corrupt(error) => set_aside(attempts, error),
            Part::Wait(lanes) => Verdict::Deferred {
                attempts,
                error: None,
                delay: Duration::ZERO,
                rest: None,
                lanes,
            },
            Part::Write(count) => {
                let end = start + count;
                let mut left = Vec::new();
                let mut error = None;
                while let Some((index, failure)) = failures.next_if(|(index, _)| *index < end) {
                    let message = &batch[index];
                    let lane = deferred.lane(message);
                    // Behind another that failed, it may have failed for that alone.
                    if error.is_none() && lane.is_none_or(|lane| !failing.contains(&lane)) {
                        error = Some(text(&failure));
                    }
                    left.push(message.clone());
                }
                start = end;
                let rest = (left.len() < count).then(|| Rest {
                    messages: left.len(),
                    raw_data: encode(&left),
                });
                let lanes = deferred.lanes(&left);
                failing.extend(lanes.iter().copied());
                let attempts = attempts.saturating_add(u32::from(error.is_some()));
                match error {
                    _ if left.is_empty() => Verdict::Done,
                    Some(error) if attempts >= terms.attempts => Verdict::SetAside {
                        attempts,
                        error,
                        rest,
                    },
                    error => Verdict::Deferred {
                        attempts,
                        delay: match &error {
                            Some(_) => terms.backoff.delay(attempts),
                            None => Duration::ZERO,
                        },
                        error,
                        rest,
                        lanes,
                    },
                }
            }
        };
        done.rows.push((id, verdict));
    }
    done
}

/// Writes a batch; returns which of it failed, in rising order.
async fn write(writer: &dyn Writer, batch: &[Message], terms: Terms) -> Vec<(usize, Error)> {
    if batch.is_empty() {
        return Vec::new();
    }
    let written = match writer.try_write(batch) {
        Some(written) => written,
        None => match tokio::time::timeout(terms.limit, writer.write(batch)).await {
            Ok(written) => written,
            Err(_) => Err(WriteError::all(batch.len(), || {
                let problem =
                    "the destination did not confirm the messages in time; if it is slow, ";
                Error::new(ErrorKind::Timeout, [problem, terms.advice].concat())
                    .operation("write")
                    .driver(terms.driver)
            })),
        },
    };
    let mut failures = match written {
        Ok(()) => Vec::new(),
        Err(error) => error.into_failures(),
    };
    failures.retain(|(index, _)| *index < batch.len());
    failures.dedup_by_key(|(index, _)| *index);
    failures
}

/// A row that cannot be read gets no better by trying again.
fn set_aside(attempts: u32, error: String) -> Verdict {
    Verdict::SetAside {
        attempts: attempts.saturating_add(1),
        error,
        rest: None,
    }
}

/// An error with its causes, as it fits into its column.
fn text(error: &Error) -> String {
    let text = format!("{error:?}");
    let fit = text.chars().take(LONGEST_ERROR);
    // PostgreSQL takes any character but this one.
    fit.map(|c| if c == '\0' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
