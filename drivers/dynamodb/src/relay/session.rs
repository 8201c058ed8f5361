//! What a relay does with the rows of one part, step by step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use streams_core::{Backoff, Error, ErrorKind, Result, Writer};
use streams_outbox::stop::told;
use streams_outbox::{Cleanup, Deferred, Row, Settings, pass};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::config::Mode;
use super::is_final;
use super::leases::Leases;
use super::metrics::Metrics;
use super::store::{Look, Store};
use crate::DRIVER;

/// While DynamoDB cannot be reached, or throttles.
pub(crate) const DATABASE_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What all parts of a relay share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) writer: Arc<dyn Writer>,
    pub(crate) config: Settings,
    pub(crate) mode: Mode,
    pub(crate) metrics: Metrics,
    pub(crate) leases: Leases,
    /// How many messages were written, in all parts.
    pub(crate) written: AtomicU64,
}

/// What a step has come to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There may be more to do.
    Worked,
    /// Nothing is to be done, before this time if there is one.
    Idle(Option<Instant>),
    /// The destination takes nothing.
    Down(Error),
}

/// From taking a part to letting it go.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) part: String,
    pub(crate) deferred: Deferred,
    /// How often in a row the destination took nothing, and how much had been written in all parts
    /// before the last time.
    downs: u32,
    written_before: u64,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, part: String) -> Self {
        Self {
            shared,
            part,
            deferred: Deferred::default(),
            downs: 0,
            written_before: 0,
        }
    }

    pub(crate) fn config(&self) -> &Settings {
        &self.shared.config
    }

    pub(crate) fn is_full(&self) -> bool {
        self.deferred.size() >= self.config().deferred
    }

    /// How many rows are read together. While the destination takes none of them, more: it may be down,
    /// or it takes none of one stream, and others wait behind.
    pub(crate) fn most(&self) -> usize {
        let rows = self.config().rows as usize;
        let more = rows.saturating_mul(1 << self.downs.min(20));
        more.min(self.config().deferred).max(rows)
    }

    /// Reads rows of a partition, up to a place if there is one, and forwards them.
    ///
    /// # Errors
    /// `LeaseLost`; or DynamoDB's.
    pub(crate) async fn step(&mut self, partition: &str, before: Option<&str>) -> Result<Step> {
        let (mut rows, next) = self.due().await?;
        if !self.is_full() {
            let look = Look {
                partition,
                rows: self.most(),
                bytes: self.config().bytes.saturating_mul(1 << self.downs.min(2)),
                before,
            };
            let known = |id: &str| self.deferred.contains(id);
            let window = self.shared.store.look(look, known).await?;
            let lag = Some(window.age.unwrap_or_default());
            self.shared
                .metrics
                .part(&self.part, self.deferred.len(), lag);
            rows.extend(window.rows);
        }
        if rows.is_empty() {
            return Ok(Step::Idle(next));
        }
        self.forward(rows).await
    }

    /// The deferred rows whose turn it is; and when that of the next one is.
    pub(crate) async fn due(&mut self) -> Result<(Vec<Row>, Option<Instant>)> {
        let most = self.config().rows as usize;
        let (ids, next) = self.deferred.due(Instant::now(), most);
        if ids.is_empty() {
            return Ok((Vec::new(), next));
        }
        let (rows, gone) = self.shared.store.again(&ids).await?;
        gone.iter().for_each(|id| self.deferred.remove(id));
        Ok((rows.into_iter().map(Row::again).collect(), next))
    }

    /// Writes rows, and settles them.
    pub(crate) async fn forward(&mut self, rows: Vec<Row>) -> Result<Step> {
        let shared = self.shared.clone();
        let config = &shared.config;
        let mut raw_data = HashMap::new();
        if matches!(config.cleanup, Cleanup::Keep(_)) {
            let kept = rows.iter();
            raw_data.extend(kept.map(|row| (row.id.clone(), row.raw_data().clone())));
        }
        // Other parts have written since this one could not: it is not the destination.
        let written = shared.written.load(Ordering::Relaxed);
        let proven = self.downs > 0 && written > self.written_before;
        let terms = config.terms(DRIVER, proven);
        shared.leases.held_for(terms.limit).await?;
        let mut pass = pass(rows, &*shared.writer, &self.deferred, terms).await;
        shared.written.fetch_add(pass.written, Ordering::Relaxed);
        shared.metrics.count(&pass);
        let down = pass.down.take();
        for attempt in 1.. {
            match shared.store.settle(&pass.rows, &raw_data).await {
                Ok(()) => break,
                Err(error) if is_final(&error) || !shared.leases.are_held() => return Err(error),
                Err(error) => {
                    // What was written must not be written twice because of a moment.
                    tracing::warn!(%error, "rows that were forwarded could not be settled");
                    sleep(DATABASE_BACKOFF.delay(attempt)).await;
                }
            }
        }
        pass.remember(&mut self.deferred);
        shared.metrics.part(&self.part, self.deferred.len(), None);
        match down {
            None => {
                self.downs = 0;
                Ok(Step::Worked)
            }
            Some(error) if error.kind() == ErrorKind::Closed => Err(error),
            Some(error) => {
                self.downs += 1;
                self.written_before = written;
                Ok(Step::Down(error))
            }
        }
    }

    /// Waits because the destination takes nothing.
    pub(crate) async fn wait(&self, error: &Error, stopped: &mut watch::Receiver<bool>) {
        let delay = self.config().destination_backoff.delay(self.downs);
        let part = &self.part;
        tracing::warn!(%error, ?delay, part, "the destination takes nothing; the relay waits");
        rest(Instant::now() + delay, stopped).await;
    }
}

/// What a session leaves behind is measured no more.
impl Drop for Session {
    fn drop(&mut self) {
        self.shared.metrics.left(&self.part);
    }
}

/// Waits until then, or until it is told to stop.
pub(crate) async fn rest(until: Instant, stopped: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = sleep_until(until) => {}
        () = told(stopped) => {}
    }
}
