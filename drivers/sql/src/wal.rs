//! The relay of PostgreSQL's write-ahead log: as [`Relay`], but told of each commit by the log itself.
//!
//! The replication protocol is spoken by `pgwire-replication`: it is small, tells the server only what
//! was confirmed (also while nobody reads from it), reads ahead a bounded number of changes, answers
//! keep-alives, and is maintained. `pg_walstream` brings the machinery of change data capture along,
//! eight times the code; sqlx and tokio-postgres do not speak the protocol.

mod connect;
mod error;
mod pgoutput;
mod session;
mod slot;
mod stream;
mod table;

use std::fmt;
use std::sync::Arc;

use metrics::{Gauge, gauge};
use pgwire_replication::ReplicationConfig;
use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;
use streams_core::{Backoff, Error, ErrorKind, Result, Writer};
use streams_outbox::stop;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use self::session::{Run, Session};
use self::slot::{Found, Slot};
use self::stream::Stream;
use crate::DRIVER;
use crate::outbox::Outbox;
use crate::relay::session::DATABASE_BACKOFF;
use crate::relay::store::Store;
use crate::relay::{Cleanup, Relay, RelayBuilder, RelayReport, is_final};

/// How many bytes of log the server keeps because the relay has not confirmed them; a gauge with the
/// label `slot`. Measured every 5 s by the active relay.
pub const SLOT_LAG: &str = "streams_relay_slot_lag_bytes";

/// What errors name as the operation.
const DOING: &str = "replicate";

/// How often the slot is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often a relay that stands by looks whether the slot is free.
const STAND_BY: Duration = Duration::from_secs(1);

/// Longest name of a slot.
const LONGEST: usize = 63;

/// Moves the messages of an outbox in PostgreSQL to a destination, as a [`Relay`] does, but reads them
/// from the write-ahead log: in the exact order of the commits, as soon as they are committed, without
/// polling.
///
/// ```no_run
/// # async fn example(writer: std::sync::Arc<dyn streams_core::Writer>) -> Result<(), Box<dyn std::error::Error>> {
/// use sqlx::postgres::PgPool;
/// use streams_sql::{Outbox, WalRelay};
///
/// let pool = PgPool::connect("postgres://shop@db.example/shop").await?;
/// let outbox = Outbox::builder(pool).build()?;
/// outbox.migrate().await?;
///
/// let relay = WalRelay::builder(outbox, writer).build()?;
/// let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
/// let report = relay.run(stop).await?;
/// println!("{} messages", report.messages);
/// # Ok(()) }
/// ```
///
/// # What PostgreSQL needs
/// - Version 14 or newer with `wal_level = logical`, and a free slot (`max_replication_slots`) and
///   sender (`max_wal_senders`).
/// - A user who may read and write `streams_egress` and `streams_relay`, with `REPLICATION` (`ALTER ROLE
///   shop REPLICATION`). To make the publication it must own the
///   table and have `CREATE` on the database. Otherwise make both by hand, the publication first, and
///   switch off [`manage`](WalRelayBuilder::manage):
///
/// ```sql
/// CREATE PUBLICATION streams_egress_proxy FOR TABLE streams_egress WITH (publish = 'insert, update');
/// SELECT pg_create_logical_replication_slot('streams_egress_proxy_worker', 'pgoutput');
/// ```
///
/// - A direct connection: proxies that share connections, such as PgBouncer, do not speak the
///   replication protocol. If the pool goes through one, set
///   [`connection`](WalRelayBuilder::connection).
///
/// # Guarantees
/// - At least once. The position in the log is confirmed after the destination has confirmed the
///   messages and the rows are settled in the table; what comes again after a crash and was settled is
///   left out.
/// - Messages are written in the order in which their transactions were committed. What is in the
///   table when a new slot is read for the first time goes out first, in the order of insertion.
/// - The log tells *when* something is to be forwarded, the table *what* still is: rows stay there until
///   they are forwarded. So a slot that was dropped, or that the server gave up because it fell too far
///   behind (`max_slot_wal_keep_size`), loses nothing: it is made anew, and rows that are there are
///   forwarded. If it was made anew by hand, they follow what came after them.
/// - One relay has the slot; others stand by, look every second, and take over when it ends or its
///   connection breaks. After a crash of its machine that is when the server notices
///   (`wal_sender_timeout`, 60 s). Do not run a [`Relay`] on the same table: both would write.
///
/// # Failures
/// As those of [`Relay`]: rows that fail are deferred in the table and tried again from there, so they
/// hold back neither other keys nor the confirmed position. While the destination seems to be down, the
/// relay tries what comes after these rows too, to see whether they are at fault; it looks at as many
/// as [`deferred`](WalRelayBuilder::deferred) says. Beyond, and while more rows are deferred than may
/// be, it stops reading, and the server keeps the log.
///
/// **A slot keeps log for as long as nobody reads it.** Watch [`SLOT_LAG`], limit it with
/// `max_slot_wal_keep_size`, and drop the slot if you do not use the relay any more.
///
/// # Cost
/// One replication connection, one connection of the pool while rows are settled, and one query in 5 s
/// for [`SLOT_LAG`]. Memory: two times [`bytes`](WalRelayBuilder::bytes) and some rows more, in large
/// transactions too; four times while the destination takes nothing.
pub struct WalRelay {
    relay: Relay<Postgres>,
    slot: Slot,
    connection: Option<PgConnectOptions>,
}

/// Builds a [`WalRelay`].
#[must_use = "a builder makes nothing until `build`"]
pub struct WalRelayBuilder {
    outbox: Outbox<Postgres>,
    relay: RelayBuilder<Postgres>,
    connection: Option<PgConnectOptions>,
    publication: String,
    slot: String,
    manage: bool,
}

impl WalRelayBuilder {
    /// Sets how the replication connection is opened; the default is as those of the outbox's pool.
    /// Host, port, socket, user, password, database, TLS, name and options are taken over. TLS needs
    /// this crate's feature `wal-tls`, and certificates in files; `prefer` is without TLS where the
    /// feature is not.
    ///
    /// With the feature the provider `ring` becomes the process's default for rustls, unless there is
    /// one.
    pub fn connection(mut self, options: PgConnectOptions) -> Self {
        self.connection = Some(options);
        self
    }

    /// Sets the publication; the default is `streams_egress_proxy`. Small letters, digits and
    /// underscores.
    pub fn publication(mut self, name: impl Into<String>) -> Self {
        self.publication = name.into();
        self
    }

    /// Sets the slot; the default is `streams_egress_proxy_worker`. Small letters, digits and
    /// underscores. Slots are of the whole server: two outboxes need two.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.slot = name.into();
        self
    }

    /// Sets whether publication and slot are made where they are missing, and the slot made anew when
    /// it is of no use any more; the default is `true`. Otherwise that is an error that names the
    /// statement.
    pub fn manage(mut self, manage: bool) -> Self {
        self.manage = manage;
        self
    }

    /// Sets the most rows that are written together; the default is 500, the most 5,000. What has come
    /// is written at once; so many only come together when the destination is slower than the log.
    pub fn rows(mut self, rows: u32) -> Self {
        self.relay = self.relay.rows(rows);
        self
    }

    /// Sets the most bytes of rows that are written together; the default is 4 MiB. A row larger than
    /// this goes alone.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.relay = self.relay.bytes(bytes);
        self
    }

    /// Sets how long one write may take; then it counts as failed. The default is 15 s, the shortest
    /// 150 ms.
    pub fn write_limit(mut self, limit: Duration) -> Self {
        self.relay = self.relay.lease(limit.saturating_mul(2));
        self
    }

    /// Sets after how many attempts a row is set aside; the default is 10.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.relay = self.relay.attempts(attempts);
        self
    }

    /// Sets how long a row waits that could not be written while others were; the default is from 1 s
    /// to 60 s, doubling, with jitter.
    pub fn row_backoff(mut self, backoff: Backoff) -> Self {
        self.relay = self.relay.row_backoff(backoff);
        self
    }

    /// Sets how long the relay waits when the destination takes nothing; the default is from 100 ms to
    /// 30 s, doubling, with jitter.
    pub fn destination_backoff(mut self, backoff: Backoff) -> Self {
        self.relay = self.relay.destination_backoff(backoff);
        self
    }

    /// Sets how many rows may wait to be tried again: see [`RelayBuilder::deferred`].
    pub fn deferred(mut self, most: usize) -> Self {
        self.relay = self.relay.deferred(most);
        self
    }

    /// Sets what becomes of rows that were forwarded; the default is [`Cleanup::Delete`].
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.relay = self.relay.cleanup(cleanup);
        self
    }

    /// The relay. Nothing is asked of the database yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a setting out of the range that its method
    /// names, or a connection that this cannot open.
    pub fn build(self) -> Result<WalRelay> {
        check_name("publication", &self.publication)?;
        check_name("slot", &self.slot)?;
        let relay = WalRelay {
            relay: self.relay.build()?,
            slot: Slot {
                outbox: self.outbox,
                publication: self.publication,
                slot: self.slot,
                manage: self.manage,
            },
            connection: self.connection,
        };
        relay.replication()?;
        Ok(relay)
    }
}

/// Both are used in places where nothing can be quoted.
fn check_name(setting: &'static str, name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid_config(format!(
        "the name has to be of 1 to {LONGEST} small letters, digits and underscores"
    ))
    .driver(DRIVER)
    .with(setting, format_args!("{name:?}")))
}

/// How an attempt to relay has ended, without an error.
enum End {
    Stopped,
    Busy,
}

impl WalRelay {
    /// Starts a relay from an outbox to a destination.
    pub fn builder(outbox: Outbox<Postgres>, writer: Arc<dyn Writer>) -> WalRelayBuilder {
        WalRelayBuilder {
            relay: Relay::builder(outbox.clone(), writer),
            outbox,
            connection: None,
            publication: "streams_egress_proxy".to_owned(),
            slot: "streams_egress_proxy_worker".to_owned(),
            manage: true,
        }
    }

    /// Relays until `shutdown` is there, then finishes the rows it is at, tells the server, and lets go
    /// of the slot. Dropped, it is as if the process had crashed.
    ///
    /// # Errors
    /// What does not get better by waiting; while the database or the destination cannot be reached, it
    /// waits.
    /// - [`NotFound`](ErrorKind::NotFound) when the table is not there, or publication or slot are
    ///   missing or of no use and not [managed](WalRelayBuilder::manage).
    /// - [`InvalidConfig`](ErrorKind::InvalidConfig) when the table is of another version, the server
    ///   has another `wal_level`, or publication or slot are for something else.
    /// - [`Permission`](ErrorKind::Permission) when the user may not replicate.
    /// - [`Closed`](ErrorKind::Closed) when the pool or the writer was closed.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<RelayReport> {
        stop::until(shutdown, |stopped| self.run_until(stopped)).await
    }

    async fn run_until(&self, mut stopped: watch::Receiver<bool>) -> Result<RelayReport> {
        let (store, metrics) = (self.relay.store(), self.relay.metrics());
        let lag = gauge!(SLOT_LAG, "slot" => self.slot.slot.clone());
        let mut report = RelayReport::default();
        let mut state = State::default();
        while !*stopped.borrow() {
            let run = Run {
                relay: &self.relay,
                store: &store,
                metrics: &metrics,
                report: &mut report,
                state: &mut state,
                stopped: stopped.clone(),
            };
            let ended = self.attempt(run, &lag).await;
            metrics.active(false);
            lag.set(0);
            let pause = match ended {
                Ok(End::Stopped) => break,
                Ok(End::Busy) => {
                    if !std::mem::replace(&mut state.stands_by, true) {
                        tracing::info!(
                            slot = self.slot.slot,
                            "another relay has the slot; standing by"
                        );
                    }
                    STAND_BY
                }
                Err(error) => self.failed(error, &mut state)?,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop::told(&mut stopped) => {}
            }
        }
        Ok(report)
    }

    /// How long to wait after an error.
    ///
    /// # Errors
    /// That one, if waiting does not help.
    fn failed(&self, error: Error, state: &mut State) -> Result<Duration> {
        if state.streaming && error.kind() == ErrorKind::NotFound && self.slot.manage && !state.anew
        {
            tracing::error!(%error, slot = self.slot.slot, "the slot is of no use any more");
            state.anew = true;
            return Ok(Duration::ZERO);
        }
        if is_final(&error) {
            return Err(error);
        }
        state.failures += 1;
        let failures = state.failures;
        tracing::warn!(%error, failures, "the relay waits for the database");
        Ok(DATABASE_BACKOFF.delay(failures))
    }

    /// Sets everything up, takes the slot, and relays for as long as it has it.
    async fn attempt(&self, mut run: Run<'_>, lag: &Gauge) -> Result<End> {
        let state = &mut *run.state;
        state.streaming = false;
        let found = tokio::select! {
            found = self.slot.set_up(state.anew) => found?,
            () = stop::told(&mut run.stopped) => return Ok(End::Stopped),
        };
        let Found::Free(start) = found else {
            return Ok(End::Busy);
        };
        if start.created && state.worked {
            tracing::error!(
                slot = self.slot.slot,
                "the slot had to be made anew; what is in the table is forwarded: nothing is lost"
            );
        }
        state.streaming = true;
        let opened = tokio::select! {
            opened = Stream::open(self.replication()?, start.table, start.confirmed) => opened?,
            () = stop::told(&mut run.stopped) => return Ok(End::Stopped),
        };
        let Some(stream) = opened else {
            return Ok(End::Busy);
        };
        (state.failures, state.stands_by, state.worked) = (0, false, true);
        run.metrics.active(true);
        tracing::info!(slot = self.slot.slot, "the relay has the slot");
        let (store, session) = (run.store, Session::begin(run, stream, start, &self.slot));
        tokio::select! {
            done = async { session.await?.work().await } => done.map(|()| End::Stopped),
            error = self.look(store, lag) => Err(error),
        }
    }

    /// Measures the slot, and deletes what was kept for long enough. Returns when the server says that
    /// nobody has the slot: then the connection is dead, though it may not show.
    async fn look(&self, store: &Store<Postgres>, lag: &Gauge) -> Error {
        let mut absent = 0;
        loop {
            match self.slot.standing().await {
                Ok(Some(standing)) => {
                    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                    lag.set(standing.lag as f64);
                    absent = if standing.active { 0 } else { absent + 1 };
                }
                Ok(None) => absent += 1,
                // The session sees it too, when it needs the database.
                Err(error) => tracing::debug!(%error, "the slot could not be looked at"),
            }
            if absent == 2 {
                return Error::new(
                    ErrorKind::Unavailable,
                    "the server has closed the replication connection; it is opened anew",
                )
                .driver(DRIVER)
                .with("slot", &self.slot.slot);
            }
            while let Ok(true) = store.clean().await {}
            sleep(LOOK).await;
        }
    }

    fn replication(&self) -> Result<ReplicationConfig> {
        let slot = &self.slot;
        let options = match &self.connection {
            Some(options) => options.clone(),
            None => PgConnectOptions::clone(&slot.outbox.pool().connect_options()),
        };
        connect::config(&options, &slot.slot, &slot.publication)
    }
}

/// What is known from one attempt to the next.
#[derive(Debug, Default)]
struct State {
    /// Attempts that failed, one after the other.
    failures: u32,
    stands_by: bool,
    /// There was a session.
    worked: bool,
    /// The last error is one of the stream, or of what it feeds.
    streaming: bool,
    /// The slot is to be made anew. Until a session has caught up, it is only once.
    anew: bool,
}

impl fmt::Debug for WalRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalRelay")
            .field("relay", &self.relay)
            .field("publication", &self.slot.publication)
            .field("slot", &self.slot.slot)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WalRelayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalRelayBuilder")
            .field("relay", &self.relay)
            .field("publication", &self.publication)
            .field("slot", &self.slot)
            .field("manage", &self.manage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for name in ["", "A", "a b", "a'b", "a;b", "a,b", "é", &"a".repeat(64)] {
            let error = check_name("slot", name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?}");
        }
        check_name("slot", "streams_egress_proxy_worker").unwrap();
    }

    #[tokio::test]
    async fn passwords_are_not_printed() {
        let options: PgConnectOptions = "postgres://u:topsecret@127.0.0.1:1/d".parse().unwrap();
        let pool = sqlx::Pool::<Postgres>::connect_lazy_with(options.clone());
        let outbox = Outbox::builder(pool).build().unwrap();
        let writer = Arc::new(streams_core::NoopWriter::new());
        let builder = WalRelay::builder(outbox, writer).connection(options);
        assert!(!format!("{builder:?}").contains("topsecret"));
        let relay = builder.build().unwrap();
        assert!(!format!("{relay:?}").contains("topsecret"));
    }
}
