//! From taking the slot to its loss: what is committed is forwarded, in the order of the commits.
//!
//! The log alone tells neither all that has to be forwarded nor what has been:
//!
//! - What was committed before the slot was made is in the table alone. It goes out first.
//! - What was deferred is in the table too, and is tried again from there.
//! - What was forwarded shortly before a crash comes from the log again. Until the log has come to
//!   where it was at the beginning of the session (a mark written into it says so), rows that are not
//!   ready in the table any more are left out.
//! - Then all that was committed before the session is done with. A row of it that waits all the same
//!   was in no part of the log that this slot told of: somebody has made it anew. It goes out now.

mod patience;

use std::collections::HashSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use pgwire_replication::Lsn;
use sqlx::Postgres;
use streams_core::{Error, ErrorKind, Result};
use streams_outbox::{Deferred, Row, Terms, pass, stop};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::State;
use super::pgoutput::Change;
use super::slot::{Slot, Start};
use super::stream::{Item, Stream};
use super::table::{self, Snapshot, Which};
use crate::DRIVER;
use crate::relay::metrics::Metrics;
use crate::relay::store::Store;
use crate::relay::{Relay, RelayReport};

/// Break: the relay is to stop.
type Flow = ControlFlow<()>;

const GO_ON: Flow = ControlFlow::Continue(());
const STOP: Flow = ControlFlow::Break(());

/// The longest pause while transactions that were committed cannot be seen yet.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What is lent to a session.
pub(super) struct Run<'a> {
    pub(super) relay: &'a Relay<Postgres>,
    pub(super) store: &'a Store<Postgres>,
    pub(super) metrics: &'a Metrics,
    pub(super) report: &'a mut RelayReport,
    pub(super) state: &'a mut State,
    pub(super) stopped: watch::Receiver<bool>,
}

/// A relay that has the slot.
pub(super) struct Session<'a> {
    run: Run<'a>,
    stream: Stream,
    slot: &'a Slot,
    /// What was in the table before the slot has to go out first.
    new: bool,
    deferred: Deferred,
    /// What was committed at the beginning.
    snapshot: Snapshot,
    /// The log may tell of what was forwarded before: rows are looked up in the table.
    looks_up: bool,
    /// What ends that, when it comes from the log.
    mark: Option<String>,
    /// All before it is done with.
    confirmed: Lsn,
}

/// A row that is to be forwarded.
#[derive(Debug)]
struct Wanted {
    id: String,
    attempts: u32,
    /// How many bytes it has.
    size: usize,
    /// What the log has told; else it is in the table.
    raw_data: Option<Bytes>,
}

impl From<&Row> for Wanted {
    fn from(row: &Row) -> Self {
        Self {
            id: row.id.clone(),
            attempts: row.attempts,
            size: row.raw_data().len(),
            raw_data: None,
        }
    }
}

/// How far the table was looked through.
#[derive(Debug)]
struct Sweep {
    which: Which,
    after: i64,
}

/// What was written together.
#[derive(Debug, Default)]
struct Forwarded {
    /// None of these needs the log any more. If the destination is down, they are not all.
    settled: HashSet<String>,
    /// Any message was written.
    any: bool,
    down: Option<Error>,
}

/// What has come from the log.
#[derive(Debug, Default)]
struct Window {
    changes: Vec<Change>,
    /// The transactions that they are of.
    transactions: Vec<i64>,
    bytes: usize,
    /// All before it is in this window, or was in those before.
    position: Option<Lsn>,
    /// The log has come to the mark.
    marked: bool,
}

impl<'a> Session<'a> {
    /// Begins when the slot is taken.
    pub(super) async fn begin(
        run: Run<'a>,
        stream: Stream,
        start: Start,
        slot: &'a Slot,
    ) -> Result<Self> {
        Ok(Self {
            snapshot: table::snapshot(&run.relay.outbox).await?,
            run,
            stream,
            deferred: Deferred::default(),
            slot,
            new: start.new,
            looks_up: true,
            mark: None,
            confirmed: start.confirmed,
        })
    }

    /// Forwards until the relay is to stop; at first what only the table knows of: all of it if the
    /// slot is new.
    ///
    /// # Errors
    /// When the session is lost.
    pub(super) async fn work(mut self) -> Result<()> {
        let first = if self.new {
            Which::Both
        } else {
            Which::Deferred
        };
        let mut flow = self.sweep(first).await?;
        if flow.is_continue() {
            if self.new {
                self.slot.remember_sweep().await?;
            }
            self.write_mark().await?;
        }
        while flow.is_continue() {
            flow = self.step().await?;
        }
        self.stream.close(self.confirmed).await;
        Ok(())
    }

    /// Forwards what comes next, from the log or of what was deferred.
    async fn step(&mut self) -> Result<Flow> {
        let (due, next) = self.due();
        if !due.is_empty() {
            return self.retry(&due).await;
        }
        let full = self.is_full();
        let item = tokio::select! {
            () = stop::told(&mut self.run.stopped) => return Ok(STOP),
            () = until(next) => return Ok(GO_ON),
            item = self.stream.next(), if !full => item?,
        };
        let mut window = Window::default();
        self.add(&mut window, item);
        self.gather(&mut window).await?;
        self.forward_window(window).await
    }

    /// Adds what has come by now, as far as it fits.
    async fn gather(&mut self, window: &mut Window) -> Result<()> {
        let config = &self.run.relay.config;
        let (rows, bytes) = (config.rows as usize, config.bytes);
        while window.changes.len() < rows && window.bytes < bytes {
            let Some(item) = self.stream.next_here().await? else {
                break;
            };
            self.add(window, item);
        }
        Ok(())
    }

    fn add(&self, window: &mut Window, item: Item) {
        match item {
            // The relay's own, when it has deferred a row or set it aside.
            Item::Change(_, change) if !change.ready => {}
            Item::Change(transaction, change) => {
                if window.transactions.last() != Some(&transaction.into()) {
                    window.transactions.push(transaction.into());
                }
                window.bytes += change.raw_data.as_ref().map_or(0, Bytes::len);
                window.changes.push(change);
            }
            Item::Position(position) => window.position = Some(position),
            Item::Mark(mark) => {
                let ours = self.mark.as_ref().map(String::as_bytes);
                window.marked |= ours == Some(&*mark);
            }
        }
    }

    /// Forwards what has come.
    async fn forward_window(&mut self, mut window: Window) -> Result<Flow> {
        let (wanted, transactions) = self.wanted(&mut window).await?;
        let forwarding = self.forward_all(wanted, transactions, &mut window, None);
        if forwarding.await?.is_break() {
            return Ok(STOP);
        }
        self.confirm(&window);
        if window.marked {
            return self.caught_up().await;
        }
        Ok(GO_ON)
    }

    fn confirm(&mut self, window: &Window) {
        if let Some(position) = window.position {
            self.confirmed = self.confirmed.max(position);
            self.stream.confirm(self.confirmed);
        }
    }

    /// What has come that is to be forwarded, and the transactions that have to be seen before it can
    /// be settled.
    async fn wanted(&self, window: &mut Window) -> Result<(Vec<Wanted>, Vec<i64>)> {
        let mut changes = std::mem::take(&mut window.changes);
        let mut transactions = std::mem::take(&mut window.transactions);
        window.bytes = 0;
        let mut seen = HashSet::new();
        changes.retain(|change| seen.insert(change.batch_id.clone()));
        // What somebody wants to be tried again has been here before: the table knows the rest.
        let look_up: HashSet<_> = changes
            .iter()
            .filter(|change| self.looks_up || change.update)
            .map(|change| change.batch_id.clone())
            .collect();
        if !look_up.is_empty() {
            self.see(&std::mem::take(&mut transactions)).await?;
            let ids: Vec<_> = look_up.iter().cloned().collect();
            let ready = table::ready(&self.run.relay.outbox, &ids).await?;
            changes.retain(|change| {
                !look_up.contains(&change.batch_id) || ready.contains(&change.batch_id)
            });
        }
        let wanted = changes.into_iter().map(|change| Wanted {
            size: change.raw_data.as_ref().map_or(0, Bytes::len),
            raw_data: change.raw_data.filter(|_| !change.update),
            id: change.batch_id,
            attempts: change.attempts,
        });
        Ok((wanted.collect(), transactions))
    }

    async fn rows(&self, wanted: impl IntoIterator<Item = &Wanted>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for row in wanted {
            match &row.raw_data {
                Some(raw_data) => {
                    let (id, raw_data) = (row.id.clone(), raw_data.clone());
                    rows.push(Row::new(DRIVER, id, row.attempts, raw_data));
                }
                None => rows.extend(table::row(self.run.store, &row.id).await?.rows),
            }
        }
        Ok(rows)
    }

    async fn write_mark(&mut self) -> Result<()> {
        let mark = format!("{:032x}", fastrand::u128(..));
        table::write_mark(&self.run.relay.outbox, &mark).await?;
        self.mark = Some(mark);
        Ok(())
    }

    /// What was committed before the session began is done with, if the slot told of it.
    async fn caught_up(&mut self) -> Result<Flow> {
        self.mark = None;
        self.run.state.anew = false;
        let before = *self.run.report;
        let flow = self.sweep(Which::Ready).await?;
        if *self.run.report == before {
            self.looks_up = false;
        } else if flow.is_continue() {
            tracing::warn!(
                table = %self.run.relay.outbox.table(),
                "rows were forwarded that the slot did not tell of; was it made anew?"
            );
            // The log may tell of some of them yet, if transactions in transactions were under way.
            self.write_mark().await?;
        }
        Ok(flow)
    }

    /// Forwards rows from the table, of those that were committed when the session began.
    async fn sweep(&mut self, which: Which) -> Result<Flow> {
        let mut sweep = Sweep {
            which,
            after: i64::MIN,
        };
        loop {
            while self.is_full() {
                let (due, next) = self.due();
                let flow = match next {
                    _ if !due.is_empty() => self.retry(&due).await?,
                    next => self.wait(next).await,
                };
                if flow.is_break() {
                    return Ok(STOP);
                }
            }
            let rows = self.swept(&mut sweep).await?;
            if rows.is_empty() {
                return Ok(GO_ON);
            }
            let wanted: Vec<_> = rows.iter().map(Wanted::from).collect();
            if self.forward(rows, &[], false).await?.down.is_some() {
                let mut window = Window::default();
                let forwarding =
                    self.forward_all(wanted, Vec::new(), &mut window, Some(&mut sweep));
                if forwarding.await?.is_break() {
                    return Ok(STOP);
                }
                self.confirm(&window);
            }
            if *self.run.stopped.borrow() {
                return Ok(STOP);
            }
        }
    }

    /// The next rows from the table; none if that was all.
    async fn swept(&self, sweep: &mut Sweep) -> Result<Vec<Row>> {
        let Sweep { which, after } = *sweep;
        let window = table::committed(self.run.store, which, &self.snapshot, after).await?;
        if !window.rows.is_empty() {
            sweep.after = window.last;
        }
        Ok(window.rows)
    }

    /// Tries deferred rows again.
    async fn retry(&mut self, ids: &[String]) -> Result<Flow> {
        let (rows, gone) = self.run.store.again(ids).await?;
        gone.iter().for_each(|id| self.deferred.remove(id));
        // They fail for themselves, so whether the destination is down is not asked.
        self.forward(rows, &[], false).await?;
        Ok(if *self.run.stopped.borrow() {
            STOP
        } else {
            GO_ON
        })
    }

    /// Writes rows and settles them, when their transactions can be seen. `proven` says that the
    /// destination takes messages, so that failures are the rows' own.
    async fn forward(
        &mut self,
        rows: Vec<Row>,
        transactions: &[i64],
        proven: bool,
    ) -> Result<Forwarded> {
        if rows.is_empty() {
            return Ok(Forwarded::default());
        }
        let relay = self.run.relay;
        let terms = Terms {
            driver: DRIVER,
            advice: "raise `write_limit`, or lower `rows` and `bytes`",
            attempts: relay.config.attempts,
            backoff: relay.config.row_backoff,
            limit: relay.config.write_limit(),
            proven,
        };
        let writing = pass(rows, &*relay.writer, &self.deferred, terms);
        let (mut done, seen) = tokio::join!(writing, self.see(transactions));
        self.run.metrics.count(&done, self.run.report);
        seen?;
        self.run.store.settle(&done.rows).await?;
        let forwarded = Forwarded {
            settled: done.rows.iter().map(|(id, _)| id.clone()).collect(),
            any: done.written > 0,
            down: done.down.take(),
        };
        done.remember(&mut self.deferred);
        self.run.metrics.deferred(self.deferred.len());
        match forwarded.down {
            Some(error) if error.kind() == ErrorKind::Closed => Err(error),
            _ => Ok(forwarded),
        }
    }

    /// Waits until transactions can be seen: until then their rows can neither be looked up nor settled.
    async fn see(&self, transactions: &[i64]) -> Result<()> {
        let mut pause = Duration::from_millis(1);
        while !transactions.is_empty()
            && table::unseen(&self.run.relay.outbox, transactions).await? > 0
        {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// The deferred rows whose turn it is, and when to look again.
    fn due(&self) -> (Vec<String>, Option<Instant>) {
        let most = self.run.relay.config.rows as usize;
        self.deferred.due(Instant::now(), most)
    }

    fn is_full(&self) -> bool {
        self.deferred.size() >= self.run.relay.config.deferred
    }

    async fn wait_for_destination(&mut self, error: &Error, downs: u32) -> Flow {
        let delay = self.run.relay.config.destination_backoff.delay(downs);
        tracing::warn!(%error, ?delay, "the destination takes nothing; the relay waits");
        self.wait(Some(Instant::now() + delay)).await
    }

    /// Waits until then, unless the relay is to stop.
    async fn wait(&mut self, time: Option<Instant>) -> Flow {
        tokio::select! {
            () = stop::told(&mut self.run.stopped) => STOP,
            () = until(time) => GO_ON,
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
