//! What the active relay does, step by step.

use std::collections::HashSet;
use std::sync::Arc;

use streams_core::{Backoff, Error, ErrorKind, Result, StreamName};
use streams_outbox::{Deferred, Pass, Row, Settings, pass};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::lease::Lease;
use super::metrics::Metrics;
use super::store::{Store, Window};
use super::wake::Wake;
use super::{Relay, RelayReport, is_final};
use crate::DRIVER;
use crate::database::Database;

/// While the database cannot be reached.
pub(crate) const DATABASE_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What the shared things of a run are, lent to each part of it.
pub(crate) struct Run<'a, DB: Database> {
    pub(crate) relay: &'a Relay<DB>,
    pub(crate) store: &'a Arc<Store<DB>>,
    pub(crate) metrics: &'a Metrics,
    pub(crate) lease: &'a mut Lease<DB>,
    pub(crate) wake: &'a mut Wake,
    pub(crate) report: &'a mut RelayReport,
}

/// From taking the lease to its end.
pub(crate) struct Session<'a, DB: Database> {
    run: Run<'a, DB>,
    deferred: Deferred,
    /// What was read while the rows before it were forwarded.
    ahead: Option<Window>,
    /// The destination is known to take messages, though not these.
    proven: bool,
    search: Option<Search>,
}

/// A look behind a full window that could not be written, for rows of other streams: if those go out,
/// the destination is not down.
struct Search {
    after: i64,
    streams: HashSet<StreamName>,
}

/// What a step has come to.
pub(crate) enum Step {
    /// There may be more to do.
    Worked,
    /// Nothing is to be done, before this time if there is one.
    Idle(Option<Instant>),
    /// The destination takes nothing.
    Down(Error),
}

impl<'a, DB: Database> Session<'a, DB> {
    /// Begins by making ready what another relay has deferred: why and for how long it knew alone.
    pub(crate) async fn begin(run: Run<'a, DB>) -> Result<Self> {
        run.store.release().await?;
        Ok(Self {
            run,
            deferred: Deferred::default(),
            ahead: None,
            proven: false,
            search: None,
        })
    }

    pub(crate) fn lease(&self) -> &Lease<DB> {
        self.run.lease
    }

    /// Renews the lease when it is time.
    pub(crate) async fn keep(&mut self) -> Result<()> {
        self.run.lease.keep().await
    }

    /// Waits until somebody says that there are rows.
    pub(crate) async fn rows(&mut self) {
        self.run.wake.rows().await;
    }

    /// Deletes some of the rows that were kept for long enough; says whether there may be more.
    pub(crate) async fn clean(&self) -> Result<bool> {
        self.run.store.clean().await
    }

    /// Writes and settles rows, and reads those that come after them meanwhile.
    ///
    /// # Errors
    /// `LeaseLost`; or that of the database. The session is over then.
    pub(crate) async fn step(&mut self) -> Result<Step> {
        self.keep().await?;
        let (rows, last, next) = self.read().await?;
        if rows.is_empty() {
            return Ok(Step::Idle(next));
        }
        // Reading may have taken long.
        self.keep().await?;
        self.run.wake.seen();
        let ahead = self.read_ahead(&rows);
        let window = last.map(|last| (last, streams(&rows)));
        let (mut pass, settled) = self.forward(rows).await;
        let ahead = ahead.join_all().await.pop();
        self.run.metrics.count(&pass, self.run.report);
        settled?;
        let down = pass.down.take();
        self.proven = false;
        if down.is_none() {
            self.search = None;
            self.ahead = ahead.transpose()?;
        }
        self.apply(pass);
        match down {
            None => Ok(Step::Worked),
            Some(error) if error.kind() == ErrorKind::Closed => Err(error),
            Some(error) => {
                if let Some((last, streams)) = window {
                    self.look_behind(last, streams).await?;
                }
                Ok(if self.proven {
                    Step::Worked
                } else {
                    Step::Down(error)
                })
            }
        }
    }

    /// Writes rows, then tells the database.
    async fn forward(&self, rows: Vec<Row>) -> (Pass, Result<()>) {
        let writer = &*self.run.relay.writer;
        let terms = self.config().terms(DRIVER, self.proven);
        let pass = pass(rows, writer, &self.deferred, terms).await;
        let settled = self.settle(&pass).await;
        (pass, settled)
    }

    /// The next window behind rows that are being written. If these find the destination down, they
    /// come first again. It is a task of its own, so that one processor reads and decodes while another
    /// writes and settles.
    fn read_ahead(&self, rows: &[Row]) -> JoinSet<Result<Window>> {
        let mut reading = JoinSet::new();
        if !self.is_full() {
            let store = Arc::clone(self.run.store);
            let known: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
            reading.spawn(async move {
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                store.ready(&known, None).await
            });
        }
        reading
    }

    /// The rows of a pass; the last place of a full window; and when the next of the deferred is due.
    async fn read(&mut self) -> Result<Read> {
        let most = self.config().rows as usize;
        let (ids, next) = self.deferred.due(Instant::now(), most);
        let mut rows = Vec::new();
        if !ids.is_empty() {
            let (again, gone) = self.run.store.again(&ids).await?;
            gone.iter().for_each(|id| self.deferred.remove(id));
            rows = again;
        }
        let window = match self.ahead.take() {
            Some(window) => window,
            None if self.is_full() => Window::default(),
            None => {
                self.run.wake.seen();
                self.run.store.ready(&[], None).await?
            }
        };
        if !self.is_full() {
            self.run.metrics.lag(window.age);
        }
        let last = window.full.then_some(window.last);
        rows.extend(window.rows);
        Ok((rows, last, next))
    }

    fn config(&self) -> &Settings {
        &self.run.relay.config
    }

    fn is_full(&self) -> bool {
        self.deferred.size() >= self.config().deferred
    }

    /// Tells the database, again and again while the lease is held: what was written must not be
    /// written twice because the database was away for a moment.
    async fn settle(&self, pass: &Pass) -> Result<()> {
        for attempt in 1.. {
            match self.run.store.settle(&pass.rows).await {
                Ok(()) => break,
                Err(error) if is_final(&error) || !self.run.lease.is_held() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "rows that were forwarded could not be settled");
                    sleep(DATABASE_BACKOFF.delay(attempt)).await;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, pass: Pass) {
        pass.remember(&mut self.deferred);
        self.run.metrics.deferred(self.deferred.len());
    }

    /// Tries the rows of other streams in one window behind those that could not be written.
    async fn look_behind(&mut self, last: i64, streams: HashSet<StreamName>) -> Result<()> {
        let mut search = self.search.take().unwrap_or(Search {
            after: last,
            streams: HashSet::new(),
        });
        search.streams.extend(streams);
        let window = self.run.store.ready(&[], Some(search.after)).await?;
        let mut others = Vec::new();
        for row in window.rows {
            if row.streams().any(|stream| search.streams.contains(stream)) {
                search.streams.extend(row.streams().cloned());
            } else {
                others.push(row);
            }
        }
        if !others.is_empty() {
            self.keep().await?;
            let (pass, settled) = self.forward(others).await;
            self.run.metrics.count(&pass, self.run.report);
            settled?;
            self.proven = pass.written > 0;
            self.apply(pass);
        } else if window.full {
            // On from there at the next failure.
            search.after = window.last;
            self.search = Some(search);
        }
        Ok(())
    }
}

type Read = (Vec<Row>, Option<i64>, Option<Instant>);

fn streams(rows: &[Row]) -> HashSet<StreamName> {
    rows.iter().flat_map(Row::streams).cloned().collect()
}
