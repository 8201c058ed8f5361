//! A database, and outboxes in it.

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres};
use streams_bench::SIZE;
use streams_core::Message;
use streams_services::Service;
use streams_sql::Outbox;
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Setup {
    pub(crate) options: PgConnectOptions,
    pub(crate) pool: PgPool,
    pub(crate) runtime: Runtime,
    tables: AtomicUsize,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let url = Service::Postgres.address().expect("a database");
        let options: PgConnectOptions = url.parse().expect("a valid URL");
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let pool = PgPoolOptions::new()
            .max_connections(24)
            .test_before_acquire(false)
            .connect_with(options.clone());
        let pool = runtime.block_on(pool).expect("a connection");
        Self {
            options,
            pool,
            runtime,
            tables: AtomicUsize::new(0),
        }
    }

    /// An outbox of its own, and its table.
    pub(crate) fn outbox(&self) -> (Outbox<Postgres>, String) {
        let number = self.tables.fetch_add(1, Ordering::Relaxed);
        let table = format!("bench_{}_{number}", std::process::id());
        let outbox = Outbox::builder(self.pool.clone()).table(&table).build();
        let outbox = outbox.expect("valid settings");
        self.runtime.block_on(outbox.migrate()).expect("a table");
        (outbox, table)
    }

    pub(crate) fn execute(&self, sql: String) -> u64 {
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&self.pool);
        self.runtime
            .block_on(done)
            .expect("a statement")
            .rows_affected()
    }

    /// Rows of one message each, made by the server from one that was written.
    pub(crate) fn fill(&self, outbox: &Outbox<Postgres>, table: &str, rows: usize, status: u8) {
        self.runtime.block_on(async {
            let mut connection = self.pool.acquire().await.expect("a connection");
            let written = outbox.write_in(&mut connection, &[message(0)]).await;
            written.expect("a row");
        });
        self.execute(format!(
            "INSERT INTO {table} (batch_id, message_count, raw_data, status, forwarded)
             SELECT '{status}' || lpad(i::text, 26, '0'), 1, one.raw_data, {status},
                    CASE {status} WHEN 1 THEN 4102444800000 END
             FROM generate_series(2, {rows}) i, (SELECT raw_data FROM {table} LIMIT 1) one"
        ));
        if status != 0 {
            self.execute(format!(
                "UPDATE {table} SET status = {status} WHERE status = 0"
            ));
        }
        // With the statistics of an empty table the loop without a relay sorts all rows for each batch.
        self.execute(format!("ANALYZE {table}"));
    }

    pub(crate) fn drop(&self, table: &str) {
        self.execute(format!("DROP TABLE {table}"));
    }
}

/// A message of 256 bytes with a key of 100.
pub(crate) fn message(number: usize) -> Message {
    Message::builder("bench")
        .key(format!("key-{}", number % 100))
        .data(vec![b'x'; SIZE])
        .build()
        .expect("a valid message")
}
