//! The relay: moves what was committed to the outbox on to any [`Writer`].

pub(crate) mod config;
mod lease;
pub mod metrics;
mod named;
pub(crate) mod session;
pub(crate) mod statement;
pub(crate) mod store;
mod wake;

use std::fmt;
use std::sync::Arc;

use streams_core::{Error, ErrorKind, Result, Writer};
pub use streams_outbox::{Cleanup, RelayReport};
use streams_outbox::{Poll, Settings, stop};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep, sleep_until};

pub use self::config::RelayBuilder;
use self::lease::Lease;
use self::metrics::Metrics;
use self::session::{DATABASE_BACKOFF, Run, Session, Step};
use self::store::Store;
use self::wake::Wake;
use crate::DRIVER;
use crate::database::Database;
use crate::outbox::Outbox;

/// Moves the messages of an outbox to a destination: Kafka, say, or any other [`Writer`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use sqlx::sqlite::SqlitePoolOptions;
/// # use streams_core::{Message, NoopWriter};
/// # let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # let writer = std::sync::Arc::new(NoopWriter::new());
/// # let outbox = streams_sql::Outbox::builder(pool.clone()).build()?;
/// # outbox.migrate().await?;
/// # let message = Message::builder("payment.made").data("{}").build()?;
/// # outbox.write_in(&mut *pool.acquire().await?, &[message]).await?;
/// # let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// use streams_sql::Relay;
///
/// let relay = Relay::builder(outbox.clone(), writer).build()?;
/// let running = tokio::spawn(async move {
///     relay.run(async { stopped.await.unwrap_or_default() }).await
/// });
/// # while outbox.pending().await? > 0 { tokio::task::yield_now().await }
/// # stop.send(()).unwrap();
/// let report = running.await??;
/// assert_eq!(report.messages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// - At least once: a row is deleted after all its messages are confirmed. After a crash between the
///   two they are written again, with the same ids.
/// - What is rolled back is never written, and no row is skipped: one that is committed late is
///   written late.
/// - The messages of a key in a stream are written in the order of their insertion. That is the order
///   of the commits wherever transactions on one key wait for each other, as they do when they lock
///   or change the same row before they write to the outbox. Otherwise a row that is committed later
///   goes out later. Messages without a key have no order.
/// - One relay at a time works on an outbox; run several, and the others stand by. They take over when
///   it ends (within the longest [poll interval](RelayBuilder::poll_interval); at once on PostgreSQL),
///   or a [lease](RelayBuilder::lease) after it has crashed.
///
/// # Failures
/// - When nothing of what it writes is taken, and all errors may go away, the destination is down. The
///   relay tries the same again after a [backoff](RelayBuilder::destination_backoff), and rows wait in
///   the database. No attempts are counted.
/// - Otherwise the rows that failed are at fault. Of a row that was written in part only the rest
///   stays. It is deferred, and tried again after a [backoff](RelayBuilder::row_backoff); rows with a
///   key of its own wait behind it, all others go on. While it is tried alone, any failure counts.
///   After some [attempts](RelayBuilder::attempts) it is set aside, with their number and the last
///   error, and its keys go on: see [`Outbox::set_aside`] and [`Outbox::retry`]. A row that cannot be
///   decoded is set aside at once.
/// - When a window was written in part, messages of a failed one's key that came after it may have
///   been written before it: that is up to the destination.
/// - When the database is away, the relay tries until it is back.
///
/// # Cost
/// Rows are found through an index of those that are ready, so rows kept or set aside cost nothing. An
/// idle relay looks at it once in the longest poll interval (once a second by default) and renews its
/// lease each third of it (each 10 s); one that stands by asks for the lease once in the longest poll
/// interval. The pool should have two connections to spare for the relay: one settles, the other reads
/// ahead. On PostgreSQL it has one more, of its own.
pub struct Relay<DB: Database> {
    pub(crate) outbox: Outbox<DB>,
    pub(crate) writer: Arc<dyn Writer>,
    pub(crate) config: Settings,
    listen: bool,
}

impl<DB: Database> Relay<DB> {
    /// Starts a relay from an outbox to a destination.
    pub fn builder(outbox: Outbox<DB>, writer: Arc<dyn Writer>) -> RelayBuilder<DB> {
        RelayBuilder::new(outbox, writer)
    }

    /// Relays until `shutdown` is there, then finishes the rows it is at and lets go of the lease.
    /// Dropped, it is as if the process had crashed: what was written and not yet deleted will be
    /// written again, and others take over when the lease has run out.
    ///
    /// # Errors
    /// What does not get better by waiting; while the database or the destination cannot be reached,
    /// it waits.
    /// - [`NotFound`](ErrorKind::NotFound) or [`InvalidConfig`](ErrorKind::InvalidConfig) when the
    ///   tables are not there or of another version: call [`Outbox::migrate`].
    /// - [`Permission`](ErrorKind::Permission) when the database refuses.
    /// - [`Closed`](ErrorKind::Closed) when the pool or the writer was closed.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<RelayReport> {
        stop::until(shutdown, |stopped| self.run_until(stopped)).await
    }

    /// Relays what is there, without waiting for more: for tests, or to be called on a schedule. Rows
    /// that were deferred meanwhile stay for the next call.
    ///
    /// ```
    /// # async fn example(relay: streams_sql::Relay<sqlx::Sqlite>) -> streams_core::Result<()> {
    /// let report = relay.run_once().await?;
    /// println!("{} messages", report.messages);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`Conflict`](ErrorKind::Conflict) when another relay is the active one.
    /// - The destination's, when it is down.
    /// - The database's.
    pub async fn run_once(&self) -> Result<RelayReport> {
        self.outbox.check().await?;
        let mut lease = Lease::new(self.outbox.clone(), self.config.lease);
        if !lease.take().await? {
            let problem = "another relay is the active one for this table; leave it to that, or wait \
                           until it has ended";
            return Err(Error::new(ErrorKind::Conflict, problem)
                .operation("run_once")
                .driver(DRIVER)
                .with("table", self.outbox.table()));
        }
        let (store, metrics) = (self.store(), self.metrics());
        metrics.active(true);
        let mut report = RelayReport::default();
        let done = self
            .drain(Run {
                relay: self,
                store: &store,
                metrics: &metrics,
                lease: &mut lease,
                wake: &mut Wake::new(&self.outbox, false),
                report: &mut report,
            })
            .await;
        let released = lease.release().await;
        done?;
        released?;
        Ok(report)
    }

    async fn drain(&self, run: Run<'_, DB>) -> Result<()> {
        let mut session = Session::begin(run).await?;
        loop {
            match session.step().await? {
                Step::Worked => {}
                Step::Idle(_) => break,
                Step::Down(error) => return Err(error),
            }
        }
        while session.clean().await? {
            session.keep().await?;
        }
        Ok(())
    }

    pub(crate) fn store(&self) -> Arc<Store<DB>> {
        let Settings {
            rows,
            bytes,
            cleanup,
            ..
        } = self.config;
        Arc::new(Store::new(self.outbox.clone(), rows, bytes, cleanup))
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::new(self.outbox.table().to_string())
    }

    async fn run_until(&self, mut stopped: watch::Receiver<bool>) -> Result<RelayReport> {
        let mut report = RelayReport::default();
        let mut lease = Lease::new(self.outbox.clone(), self.config.lease);
        let done = self.stay(&mut lease, &mut stopped, &mut report).await;
        match lease.release().await {
            Ok(()) => wake::tell_released(&self.outbox).await,
            // It runs out by itself.
            Err(error) => tracing::debug!(%error, "the lease could not be released"),
        }
        done.map(|()| report)
    }

    /// Active when it can be, else on standby, until it is stopped.
    async fn stay(
        &self,
        lease: &mut Lease<DB>,
        stopped: &mut watch::Receiver<bool>,
        report: &mut RelayReport,
    ) -> Result<()> {
        let (store, metrics) = (self.store(), self.metrics());
        let mut wake = Wake::new(&self.outbox, self.listen);
        let mut failures = 0;
        while !*stopped.borrow() {
            let run = Run {
                relay: self,
                store: &store,
                metrics: &metrics,
                lease,
                wake: &mut wake,
                report,
            };
            let ended = self.serve(run, stopped, &mut failures).await;
            metrics.active(false);
            match ended {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    tracing::warn!(%error, "the relay stands by");
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "the relay waits for the database");
                    tokio::select! {
                        () = sleep(DATABASE_BACKOFF.delay(failures)) => {}
                        () = stop::told(stopped) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the lease, then relays until it is stopped.
    async fn serve(
        &self,
        run: Run<'_, DB>,
        stopped: &mut watch::Receiver<bool>,
        failures: &mut u32,
    ) -> Result<()> {
        self.outbox.check().await?;
        loop {
            run.wake.seen();
            if run.lease.take().await? {
                break;
            }
            *failures = 0;
            tokio::select! {
                () = sleep(self.config.poll.1) => {}
                () = run.wake.released() => {}
                () = stop::told(stopped) => return Ok(()),
            }
        }
        run.metrics.active(true);
        tracing::info!(table = %self.outbox.table(), "the relay is the active one");
        let mut session = Session::begin(run).await?;
        *failures = 0;
        self.work(&mut session, stopped).await
    }

    async fn work(
        &self,
        session: &mut Session<'_, DB>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let mut poll = Poll::new(self.config.poll.0, self.config.poll.1);
        let mut clean = Instant::now();
        let mut downs = 0;
        while !*stopped.borrow() {
            let step = session.step().await?;
            if !matches!(step, Step::Down(_)) {
                downs = 0;
            }
            if let Cleanup::Keep(time) = self.config.cleanup
                && clean <= Instant::now()
            {
                let more = session.clean().await?;
                let pause = (time / 10).clamp(Duration::from_millis(100), Duration::from_secs(60));
                clean = Instant::now() + if more { Duration::ZERO } else { pause };
            }
            match step {
                Step::Worked => poll.found(),
                Step::Idle(next) => {
                    let mut until = Instant::now() + poll.empty();
                    until = until.min(session.lease().renew_at());
                    until = until.min(next.unwrap_or(until));
                    if matches!(self.config.cleanup, Cleanup::Keep(_)) {
                        until = until.min(clean);
                    }
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = session.rows() => poll.found(),
                        () = stop::told(stopped) => {}
                    }
                }
                Step::Down(error) => {
                    downs += 1;
                    let delay = self.config.destination_backoff.delay(downs);
                    tracing::warn!(%error, ?delay, "the destination takes nothing; the relay waits");
                    let until = Instant::now() + delay;
                    while Instant::now() < until && !*stopped.borrow() {
                        tokio::select! {
                            () = sleep_until(until.min(session.lease().renew_at())) => {}
                            () = stop::told(stopped) => {}
                        }
                        session.keep().await?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether waiting does not help.
pub(crate) fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::InvalidConfig
            | ErrorKind::Permission
            | ErrorKind::Closed
            | ErrorKind::Unsupported
    )
}

impl<DB: Database> fmt::Debug for Relay<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("outbox", &self.outbox)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
