//! The relay: moves what was committed to the outbox on to any [`Writer`].

mod config;
mod leases;
pub mod metrics;
mod query;
mod session;
mod shard;
mod shards;
mod store;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use streams_core::{Error, ErrorKind, Result, Writer};
pub use streams_outbox::{Cleanup, RelayReport};
use streams_outbox::{Settings, stop};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

pub use self::config::{Mode, RelayBuilder};
use self::leases::{Leases, Members, View};
use self::metrics::Metrics;
use self::session::{Session, Shared, Step};
use self::store::Store;
use self::work::Work;
use crate::DRIVER;
use crate::outbox::Outbox;

/// Moves the messages of an outbox to a destination: Kafka, say, or any other [`Writer`].
///
/// ```no_run
/// # async fn example(
/// #     dynamodb: streams_dynamodb::DynamoDb, writer: std::sync::Arc<dyn streams_core::Writer>,
/// # ) -> streams_core::Result<()> {
/// use streams_dynamodb::{Mode, Outbox, Relay};
///
/// let outbox = Outbox::builder(dynamodb).build()?;
/// let relay = Relay::builder(outbox, writer).mode(Mode::Streams).build()?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let running = tokio::spawn(async move {
///     relay.run(async { stopped.await.unwrap_or_default() }).await
/// });
/// // ... and at the end:
/// let _ = stop.send(());
/// # let _ = running;
/// # Ok(()) }
/// ```
///
/// # Guarantees
/// - At least once: a row is deleted after all its messages are confirmed. After a crash between the
///   two they are written again, with the same ids.
/// - What is cancelled is never written, and no row is skipped, however late it is committed.
/// - The messages of a key in a stream are written in the order of the commits (see
///   [`Outbox`](crate::Outbox#order)). Messages without a key have no order.
/// - All relays of an outbox that are of one [mode](RelayBuilder::mode) share the work: each has some of
///   the partitions, or shards of the stream. What one lets go at its end others take at their next
///   sign of life (a third of a [lease](RelayBuilder::lease)), what one had that has crashed a lease
///   later. No clocks are compared for that.
///
/// # Failures
/// - When nothing of what it writes is taken, and all errors may go away, the destination is down. The
///   relay tries the same again after a [backoff](RelayBuilder::destination_backoff), and rows wait in
///   the table. No attempts are counted.
/// - Otherwise the rows that failed are at fault. Of a row that was written in part only the rest
///   stays. It is deferred, and tried again after a [backoff](RelayBuilder::row_backoff); rows with a
///   key of its own wait behind it, all others go on. After some [attempts](RelayBuilder::attempts) it
///   is set aside, with their number and the last error, and its keys go on: see
///   [`Outbox::set_aside`](crate::Outbox::set_aside) and [`Outbox::retry`](crate::Outbox::retry). A row
///   that cannot be decoded is set aside at once.
/// - When a window was written in part, messages of a failed one's key that came after it may have
///   been written before it: that is up to the destination.
/// - When DynamoDB is away or throttles, the relay tries until it answers. When it could not renew its
///   leases for so long that others may have taken over, it begins anew.
///
/// # By query
/// Each partition is read from its beginning, consistently, and what was relayed is deleted.
///
/// # By streams
/// Each shard of the table's stream is read by one relay, its children when all of it is done. Rows that
/// the stream has forgotten, after a day, are taken from the table, as are those from before there was a
/// stream. The children of a shard that was closed wait for rows of it that are tried again.
pub struct Relay {
    outbox: Outbox,
    writer: Arc<dyn Writer>,
    config: Settings,
    mode: Mode,
}

impl Relay {
    /// Starts a relay from an outbox to a destination.
    pub fn builder(outbox: Outbox, writer: Arc<dyn Writer>) -> RelayBuilder {
        RelayBuilder::new(outbox, writer)
    }

    /// Relays until `shutdown` is there, then finishes the rows it is at and lets go of its leases.
    /// Dropped, it is as if the process had crashed: what was written and not yet deleted will be
    /// written again, and others take over when the leases have run out.
    ///
    /// # Errors
    /// What does not get better by waiting; while DynamoDB or the destination cannot be reached, it
    /// waits.
    /// - [`NotFound`](ErrorKind::NotFound) or [`InvalidConfig`](ErrorKind::InvalidConfig) when the
    ///   tables are not there, have another schema or no stream: call
    ///   [`Outbox::migrate`](crate::Outbox::migrate).
    /// - [`Permission`](ErrorKind::Permission) when AWS refuses.
    /// - [`Closed`](ErrorKind::Closed) when the writer was closed.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<RelayReport> {
        stop::until(shutdown, |stopped| self.run_until(stopped)).await
    }

    /// Relays what is there, by query whatever the mode, without waiting for more: for tests, or to be
    /// called on a schedule. Rows that were deferred meanwhile stay for the next call.
    ///
    /// ```
    /// # async fn example(relay: streams_dynamodb::Relay) -> streams_core::Result<()> {
    /// let report = relay.run_once().await?;
    /// println!("{} messages", report.messages);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`Conflict`](ErrorKind::Conflict) when another relay is at a partition.
    /// - The destination's, when it is down.
    /// - DynamoDB's.
    pub async fn run_once(&self) -> Result<RelayReport> {
        self.outbox.check().await?;
        let shared = self.shared(Mode::Query);
        let mut members = Members::new(shared.leases.clone());
        let view = members.beat().await?;
        let done = tokio::select! {
            done = self.drain(&shared, &view) => done,
            lost = stay_alive(&mut members, self.config.lease / 3) => Err(lost),
        };
        let left = shared.leases.leave().await;
        done?;
        left?;
        Ok(shared.metrics.report())
    }

    async fn drain(&self, shared: &Arc<Shared>, view: &View) -> Result<()> {
        for part in query::parts(self.outbox.partitions().await?) {
            let free = view.is_free(&part);
            let known = view.parts.get(&part);
            if !free || shared.leases.take(&part, known).await?.is_none() {
                let problem = "another relay is at this outbox; leave it to that, or wait until it has \
                               ended";
                return Err(Error::new(ErrorKind::Conflict, problem)
                    .operation("run_once")
                    .driver(DRIVER)
                    .with("table", self.outbox.table()));
            }
            let partition = query::partition(&part);
            let mut session = Session::new(shared.clone(), part.clone());
            loop {
                match session.step(&partition, None).await? {
                    Step::Worked => {}
                    Step::Idle(_) => break,
                    Step::Down(error) => return Err(error),
                }
            }
            shared.leases.release(&part).await?;
        }
        Ok(())
    }

    fn shared(&self, mode: Mode) -> Arc<Shared> {
        let kind = match mode {
            Mode::Query => "query",
            Mode::Streams => "streams",
        };
        Arc::new(Shared {
            store: Store::new(self.outbox.clone(), self.config.cleanup),
            writer: self.writer.clone(),
            config: self.config.clone(),
            mode,
            metrics: Metrics::new(self.outbox.table().to_string()),
            leases: Leases::new(&self.outbox, kind, self.config.lease),
            written: AtomicU64::new(0),
        })
    }

    async fn run_until(&self, mut stopped: watch::Receiver<bool>) -> Result<RelayReport> {
        let mut total = RelayReport::default();
        loop {
            // A member that was given up does not come back; another one begins.
            let shared = self.shared(self.mode);
            let mut work = Work::new(shared.clone());
            let ended = work.run(&mut stopped).await;
            work.end().await;
            let report = shared.metrics.report();
            total.messages += report.messages;
            total.rows += report.rows;
            total.failures += report.failures;
            total.set_aside += report.set_aside;
            match ended {
                Err(error) if query::is_lost(&error) => {
                    tracing::warn!(%error, "the relay begins anew");
                }
                ended => return ended.map(|()| total),
            }
        }
    }
}

/// Gives signs of life. Returns when this member was given up.
async fn stay_alive(members: &mut Members, interval: Duration) -> Error {
    loop {
        sleep(interval).await;
        match members.beat().await {
            Err(error) if query::is_lost(&error) => return error,
            Err(error) => tracing::warn!(%error, "no sign of life could be given"),
            Ok(_) => {}
        }
    }
}

/// Whether waiting does not help.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::InvalidConfig
            | ErrorKind::Permission
            | ErrorKind::Closed
            | ErrorKind::Unsupported
    )
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("outbox", &self.outbox)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
