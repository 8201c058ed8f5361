//! The relay of the write-ahead log, against PostgreSQL.

mod faults;
mod order;
mod random;
mod rows;
mod servers;
mod setup;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::{AssertSqlSafe, Postgres};
use streams_core::{
    Backoff, Capabilities, Error, Message, Result, WriteError, Writer, async_trait,
};
use streams_sql::{Outbox, RelayReport, WalRelay, WalRelayBuilder};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::support::{self, Test, TestDatabase as _, message};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database with an outbox, and a slot that goes with it.
struct Wal {
    test: Test<Postgres>,
    outbox: Outbox<Postgres>,
    slot: String,
}

impl Wal {
    async fn new(test: Test<Postgres>) -> Self {
        let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
        outbox.migrate().await.unwrap();
        Self {
            test,
            outbox,
            slot: format!("streams_test_{:016x}", fastrand::u64(..)),
        }
    }

    /// On a server of the test's own.
    async fn on(server: &streams_services::Server) -> Self {
        let url = server.url();
        let pool = Postgres::open(&url).await;
        Self::new(Test { pool, url }).await
    }

    fn builder(&self, to: &Arc<Destination>) -> WalRelayBuilder {
        let quick = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
        WalRelay::builder(self.outbox.clone(), to.clone())
            .slot(&self.slot)
            .row_backoff(quick)
            .destination_backoff(quick)
    }

    fn start(&self, to: &Arc<Destination>) -> Running {
        Running::new(self.builder(to).build().unwrap())
    }

    /// Starts a relay, and waits until it has sorted out what was in the table.
    async fn start_and_wait(&self, to: &Arc<Destination>) -> Running {
        let relay = self.start(to);
        self.publish("first", 0).await;
        to.wait(1).await;
        self.until_empty().await;
        self.until("SELECT count(*) FROM streams_relay", "1").await;
        to.forget();
        relay
    }

    /// Writes a message in a transaction of its own.
    async fn publish(&self, key: &str, number: usize) {
        self.publish_all(&[message("s", key, number)]).await;
    }

    async fn publish_all(&self, messages: &[Message]) {
        let mut connection = self.test.pool.acquire().await.unwrap();
        let written = self.outbox.write_in(&mut connection, messages).await;
        written.unwrap();
    }

    async fn ask(&self, sql: &str) -> String {
        let rows = self.test.rows(sql).await;
        rows.first().map_or(String::new(), |row| row[0].clone())
    }

    /// What the server says of the slot.
    async fn slot(&self, column: &str) -> String {
        self.ask(&format!(
            "SELECT ({column})::text FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot
        ))
        .await
    }

    /// Waits until the query says this.
    async fn until(&self, sql: &str, wanted: &str) {
        let waiting = async {
            while self.ask(sql).await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{sql} does not become {wanted}"));
    }

    async fn until_active(&self) {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE active_pid IS NOT NULL \
                   AND slot_name = ";
        self.until(&format!("{sql}'{}'", self.slot), "1").await;
    }

    async fn until_empty(&self) {
        self.until("SELECT count(*) FROM streams_egress", "0").await;
    }

    /// Takes the slot away, whoever uses it.
    async fn drop_slot(&self) {
        let end = format!(
            "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
             WHERE slot_name = '{}'",
            self.slot
        );
        let drop = format!(
            "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots \
             WHERE slot_name = '{}'",
            self.slot
        );
        let dropping = async {
            loop {
                self.ask(&end).await;
                let mut connection = self.test.pool.acquire().await.unwrap();
                let done = sqlx::query(AssertSqlSafe(drop.clone())).execute(&mut *connection);
                if done.await.is_ok() {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, dropping).await.unwrap();
    }
}

/// Runs a test on the server that all share; its slot is taken away afterwards.
async fn run<Fut: Future<Output = ()>>(test: impl FnOnce(Arc<Wal>) -> Fut) {
    support::run::<Postgres, _>(async |database| {
        let wal = Arc::new(Wal::new(database).await);
        let done = AssertUnwindSafe(test(wal.clone())).catch_unwind().await;
        wal.drop_slot().await;
        if let Err(panic) = done {
            resume_unwind(panic);
        }
    })
    .await;
}

/// A relay that runs. Dropped, it crashes.
struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<RelayReport>>,
}

impl Running {
    fn new(relay: WalRelay) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            relay.run(stopped).await
        });
        Self {
            stop: Some(stop),
            task,
        }
    }

    async fn stop(mut self) -> RelayReport {
        let _ = self.stop.take().unwrap().send(());
        let done = tokio::time::timeout(PATIENCE, &mut self.task).await;
        done.expect("it does not stop").unwrap().unwrap()
    }

    /// The error that it ends with.
    async fn error(mut self) -> Error {
        let done = tokio::time::timeout(PATIENCE, &mut self.task).await;
        done.expect("it does not end").unwrap().unwrap_err()
    }

    async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Refuse = Box<dyn FnMut(&Message) -> Option<Error> + Send>;

/// Where the relay writes to.
struct Destination {
    written: Mutex<Vec<Message>>,
    count: watch::Sender<usize>,
    refuse: Mutex<Option<Refuse>>,
    /// It takes messages and never says so.
    hangs: watch::Sender<bool>,
    /// The largest batch.
    largest: Mutex<usize>,
    capabilities: Capabilities,
}

impl Destination {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            written: Mutex::default(),
            count: watch::Sender::new(0),
            refuse: Mutex::default(),
            hangs: watch::Sender::new(false),
            largest: Mutex::default(),
            capabilities: Capabilities::none("test"),
        })
    }

    /// As if nothing had been written.
    fn forget(&self) {
        self.written.lock().unwrap().clear();
        self.count.send_replace(0);
    }

    fn refuse(&self, refuse: impl FnMut(&Message) -> Option<Error> + Send + 'static) {
        *self.refuse.lock().unwrap() = Some(Box::new(refuse));
    }

    fn take_all(&self) {
        *self.refuse.lock().unwrap() = None;
    }

    /// Waits for so many messages in all.
    async fn wait(&self, count: usize) {
        let mut counts = self.count.subscribe();
        let waited = tokio::time::timeout(PATIENCE, counts.wait_for(|now| *now >= count)).await;
        if waited.is_err() {
            panic!(
                "{count} messages do not come, only {}",
                *self.count.borrow()
            );
        }
    }

    /// The data of the messages, as numbers.
    fn numbers(&self) -> Vec<usize> {
        let written = self.written.lock().unwrap();
        let number = |message: &Message| std::str::from_utf8(message.data()).unwrap().parse();
        written
            .iter()
            .map(number)
            .collect::<Result<_, _>>()
            .unwrap()
    }

    /// Each number once, in rising order.
    fn distinct(&self) -> Vec<usize> {
        let mut numbers = self.numbers();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

#[async_trait]
impl Writer for Destination {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let mut failures = Vec::new();
        {
            let mut largest = self.largest.lock().unwrap();
            *largest = batch.len().max(*largest);
            let mut refuse = self.refuse.lock().unwrap();
            let mut written = self.written.lock().unwrap();
            for (index, message) in batch.iter().enumerate() {
                match refuse.as_mut().and_then(|refuse| refuse(message)) {
                    Some(error) => failures.push((index, error)),
                    None => written.push(message.clone()),
                }
            }
        }
        let count = self.written.lock().unwrap().len();
        self.count.send_replace(count);
        let mut hangs = self.hangs.subscribe();
        let _ = hangs.wait_for(|hangs| !hangs).await;
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}
