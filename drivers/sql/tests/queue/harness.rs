//! A queue for the conformance kit.

use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolOptions;
use streams_core::{AnyDriver, Delivery, Result, StreamName, async_trait};
use streams_services::{Faults, Proxy, Server};
use streams_sql::{SqlQueue, SqlQueueBuilder};
use streams_testkit::{Harness, Network, ReaderProcess, this_test};

use crate::support::TestDatabase;

/// Tell a process the kit starts what to open.
const URL: &str = "STREAMS_SQL_CONFORMANCE_URL";
const RETENTION: &str = "STREAMS_SQL_CONFORMANCE_RETENTION";

/// Enough for the kit's cases at the same time, each with some readers that listen.
const CONNECTIONS: u32 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settings {
    Plain,
    /// Messages are kept, and streams must be made.
    Retention,
}

pub(crate) struct OnDatabase<DB: TestDatabase> {
    url: String,
    settings: Settings,
    pool: Pool<DB>,
    /// One for all, where there is one process as a rule.
    shared: Option<SqlQueue<DB>>,
    faults: Option<Faults>,
}

impl<DB: TestDatabase> OnDatabase<DB> {
    /// On an empty database.
    pub(crate) async fn new(url: &str, settings: Settings) -> Self {
        // It sets up what a file of SQLite keeps.
        DB::open(url).await.close().await;
        let this = Self::again(url, settings);
        this.queue().build().unwrap().migrate().await.unwrap();
        this
    }

    /// On a database where the tables are.
    fn again(url: &str, settings: Settings) -> Self {
        let pool = PoolOptions::<DB>::new()
            .max_connections(CONNECTIONS)
            .connect_lazy(url)
            .unwrap();
        let mut this = Self {
            url: url.to_owned(),
            settings,
            pool,
            shared: None,
            faults: None,
        };
        if DB::NAME == "SQLite" {
            this.shared = Some(this.queue().build().unwrap());
        }
        this
    }

    /// On a server of its own, behind a proxy.
    pub(crate) async fn own(server: Server) -> Self {
        let proxy = Proxy::start(server.address()).await.unwrap();
        let direct = server.address().to_string();
        let url = server.url().replace(&direct, &proxy.address().to_string());
        let mut this = Self::new(&url, Settings::Plain).await;
        this.faults = Some(Faults::new(move || server.restart(), proxy));
        this
    }

    fn queue(&self) -> SqlQueueBuilder<DB> {
        let queue = SqlQueue::builder(self.pool.clone()).lease(Duration::from_secs(3));
        match self.settings {
            Settings::Plain => queue,
            Settings::Retention => queue
                .retention(Duration::from_secs(3600))
                .create_streams(false),
        }
    }
}

/// The side of a process that the kit has started.
pub(crate) fn serve<DB: TestDatabase>() {
    let Ok(url) = std::env::var(URL) else { return };
    let settings = match std::env::var(RETENTION) {
        Ok(_) => Settings::Retention,
        Err(_) => Settings::Plain,
    };
    // The pool wants a runtime to be made in; the kit's own is not there yet.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    ReaderProcess::serve(&OnDatabase::<DB>::again(&url, settings));
}

#[async_trait]
impl<DB: TestDatabase> Harness for OnDatabase<DB> {
    async fn open(&self) -> Result<AnyDriver> {
        let queue = match &self.shared {
            Some(queue) => queue.clone(),
            None => self.queue().build()?,
        };
        Ok(AnyDriver::from_driver(&queue))
    }

    fn name(&self) -> Option<String> {
        let what = match (&self.faults, self.settings) {
            (Some(_), _) => "faults",
            (None, Settings::Retention) => "retention",
            (None, Settings::Plain) => "queue",
        };
        Some(format!("{} ({what})", DB::NAME))
    }

    async fn create(&self, stream: &StreamName) -> Result<()> {
        match self.settings {
            Settings::Plain => Ok(()),
            Settings::Retention => self.queue().build()?.create_stream(stream).await,
        }
    }

    async fn remove(&self, stream: &StreamName) -> Result<()> {
        let queue = self.queue().build()?;
        queue.delete_stream(stream).await.map(drop)
    }

    fn position(&self, delivery: &Delivery) -> String {
        delivery.message.id().to_string()
    }

    fn server(&self) -> Option<&dyn streams_testkit::Server> {
        let faults = self.faults.as_ref()?;
        Some(faults)
    }

    fn network(&self) -> Option<&dyn Network> {
        let faults = self.faults.as_ref()?;
        Some(faults)
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        let test = format!("reader_process::{}", DB::NAME.to_ascii_lowercase());
        let process = this_test(&test).env(URL, &self.url);
        Some(match self.settings {
            Settings::Plain => process,
            Settings::Retention => process.env(RETENTION, "1"),
        })
    }
}
