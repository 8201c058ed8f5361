//! A database of its own for each test, and what tests ask of any of them.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, MySql, Pool, Postgres, Row as _, Sqlite};
use streams_core::Message;
use streams_services::Service;
use streams_sql::Database;

/// An empty database.
pub(crate) struct Test<DB: TestDatabase> {
    pub(crate) pool: Pool<DB>,
    /// For pools of the test's own.
    #[allow(dead_code, reason = "not each test opens any")]
    pub(crate) url: String,
}

impl<DB: TestDatabase> Test<DB> {
    /// Runs a statement; returns how many rows it changed.
    pub(crate) async fn execute(&self, sql: &str) -> u64 {
        let mut connection = self.pool.acquire().await.unwrap();
        DB::run_on(&mut connection, sql).await.unwrap()
    }

    /// The rows of a statement, each column as text; NULL is `-`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let mut connection = self.pool.acquire().await.unwrap();
        DB::rows_on(&mut connection, sql).await.unwrap()
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> u64 {
        let rows = self.rows(&format!("SELECT count(*) FROM {table}")).await;
        rows[0][0].parse().unwrap()
    }
}

/// What tests ask of a database.
pub(crate) trait TestDatabase: Database {
    /// The SQL files that a person runs by hand.
    const FILES: [&'static str; 2];

    /// Whether a failed statement leaves its transaction without a use.
    const ABORTS: bool = false;

    /// A column of bytes as text, in hexadecimal small letters.
    fn hex(column: &str) -> String {
        format!("lower(hex({column}))")
    }

    /// The type of a column of bytes.
    const BYTES: &'static str;

    /// Makes an empty database and gives the URL, and what has to live as long as it.
    async fn create() -> (String, Option<tempfile::TempDir>);

    /// Opens a pool.
    fn open(url: &str) -> impl Future<Output = Pool<Self>> + Send;

    /// A pool of a database that nobody reaches.
    async fn unreachable() -> Pool<Self>;

    /// Takes the database away.
    async fn remove(url: &str);

    /// Bytes as they stand in a statement.
    fn literal(bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("x'{hex}'")
    }

    fn run_on(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Runs statements separated by semicolons.
    fn script_on(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    fn rows_on(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = sqlx::Result<Vec<Vec<String>>>> + Send;
}

/// Runs a test with a database that is taken away afterwards.
pub(crate) async fn run<DB: TestDatabase, Fut: Future<Output = ()>>(
    test: impl FnOnce(Test<DB>) -> Fut,
) {
    let (url, folder) = DB::create().await;
    let pool = DB::open(&url).await;
    let running = test(Test {
        pool: pool.clone(),
        url: url.clone(),
    });
    let running = tokio::time::timeout(Duration::from_secs(120), running);
    let done = AssertUnwindSafe(running).catch_unwind().await;
    // The test's own pools may be open still; the servers part with what uses a database.
    drop(pool);
    DB::remove(&url).await;
    drop(folder);
    match done {
        Ok(done) => done.expect("the test takes too long"),
        Err(panic) => resume_unwind(panic),
    }
}

/// What the Go library makes and writes.
pub(crate) mod go {
    use super::TestDatabase;

    /// Its table, as early versions made it.
    pub(crate) fn table<DB: TestDatabase>() -> String {
        format!(
            "CREATE TABLE streams_egress (batch_id VARCHAR(27) PRIMARY KEY, message_count INTEGER, \
             raw_data {}, in_flight BOOLEAN, write_retries INTEGER, last_write_error VARCHAR(255))",
            DB::BYTES
        )
    }

    /// A row with one message, whose data is `x`.
    pub(crate) fn insert<DB: TestDatabase>(id: u32) -> String {
        format!(
            "INSERT INTO streams_egress (batch_id, message_count, raw_data) \
             VALUES ('2T9Xr6fVJ3yW8vGmJ0bq1eK4{id:03}', 1, {})",
            DB::literal(b"\x0a\x06\x12\x01s\x32\x01x")
        )
    }
}

/// A message with a key, whose data is its number.
pub(crate) fn message(stream: &str, key: &str, number: usize) -> Message {
    Message::builder(stream)
        .key(key)
        .data(number.to_string())
        .build()
        .unwrap()
}

/// The address of a server, which may have to be started first.
async fn address(service: Service) -> String {
    let address = tokio::task::spawn_blocking(move || service.address());
    address.await.unwrap().unwrap()
}

/// The server's URL with another database, whose name is random.
fn with_new_database(server: &str) -> String {
    let (server, _) = server.rsplit_once('/').unwrap();
    format!("{server}/streams_test_{:016x}", fastrand::u64(..))
}

/// The last part of the URL.
fn name(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

macro_rules! statements {
    () => {
        async fn run_on(connection: &mut Self::Connection, sql: &str) -> sqlx::Result<u64> {
            let done = sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
            Ok(done.rows_affected())
        }

        async fn script_on(connection: &mut Self::Connection, sql: &str) -> sqlx::Result<()> {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn rows_on(
            connection: &mut Self::Connection,
            sql: &str,
        ) -> sqlx::Result<Vec<Vec<String>>> {
            let rows = sqlx::query(AssertSqlSafe(sql))
                .fetch_all(connection)
                .await?;
            let text = |row: &<Self as sqlx::Database>::Row, column: usize| {
                let long = row
                    .try_get::<Option<i64>, _>(column)
                    .map(|n| n.map(|n| n.to_string()));
                let int = || {
                    row.try_get::<Option<i32>, _>(column)
                        .map(|n| n.map(|n| n.to_string()))
                };
                let short = || {
                    row.try_get::<Option<i16>, _>(column)
                        .map(|n| n.map(|n| n.to_string()))
                };
                let text = || row.try_get::<Option<String>, _>(column);
                let value = long
                    .or_else(|_| int())
                    .or_else(|_| short())
                    .or_else(|_| text());
                value.unwrap().unwrap_or_else(|| "-".to_owned())
            };
            let columns = |row: &_| (0..sqlx::Row::len(row)).map(|i| text(row, i)).collect();
            Ok(rows.iter().map(columns).collect())
        }
    };
}

impl TestDatabase for Postgres {
    const BYTES: &'static str = "BYTEA";
    const FILES: [&'static str; 2] = [
        include_str!("../../sql/postgres/outbox.sql"),
        include_str!("../../sql/postgres/inbox.sql"),
    ];
    const ABORTS: bool = true;

    async fn create() -> (String, Option<tempfile::TempDir>) {
        let server = address(Service::Postgres).await;
        let url = with_new_database(&server);
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        let create = format!("CREATE DATABASE {}", name(&url));
        Self::run_on(&mut connection, &create).await.unwrap();
        connection.close().await.unwrap();
        (url, None)
    }

    async fn unreachable() -> Pool<Self> {
        let options = sqlx::postgres::PgPoolOptions::new();
        let options = options.acquire_timeout(Duration::from_millis(200));
        options
            .connect_lazy("postgres://postgres@127.0.0.1:1/x")
            .unwrap()
    }

    async fn open(url: &str) -> Pool<Self> {
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(12);
        options.connect(url).await.unwrap()
    }

    async fn remove(url: &str) {
        let server = address(Service::Postgres).await;
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", name(url));
        Self::run_on(&mut connection, &drop).await.unwrap();
        connection.close().await.unwrap();
    }

    fn hex(column: &str) -> String {
        format!("encode({column}, 'hex')")
    }

    fn literal(bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("'\\x{hex}'")
    }

    statements!();
}

impl TestDatabase for MySql {
    const BYTES: &'static str = "LONGBLOB";
    const FILES: [&'static str; 2] = [
        include_str!("../../sql/mysql/outbox.sql"),
        include_str!("../../sql/mysql/inbox.sql"),
    ];

    async fn create() -> (String, Option<tempfile::TempDir>) {
        let server = address(Service::MariaDb).await;
        let url = with_new_database(&server);
        let mut connection = sqlx::MySqlConnection::connect(&server).await.unwrap();
        let create = format!("CREATE DATABASE {}", name(&url));
        Self::run_on(&mut connection, &create).await.unwrap();
        connection.close().await.unwrap();
        (url, None)
    }

    async fn unreachable() -> Pool<Self> {
        let options = sqlx::mysql::MySqlPoolOptions::new();
        let options = options.acquire_timeout(Duration::from_millis(200));
        options.connect_lazy("mysql://root@127.0.0.1:1/x").unwrap()
    }

    async fn open(url: &str) -> Pool<Self> {
        let options = sqlx::mysql::MySqlPoolOptions::new().max_connections(12);
        options.connect(url).await.unwrap()
    }

    async fn remove(url: &str) {
        let server = address(Service::MariaDb).await;
        let mut connection = sqlx::MySqlConnection::connect(&server).await.unwrap();
        let drop = format!("DROP DATABASE {}", name(url));
        Self::run_on(&mut connection, &drop).await.unwrap();
        connection.close().await.unwrap();
    }

    statements!();
}

impl TestDatabase for Sqlite {
    const BYTES: &'static str = "BLOB";
    const FILES: [&'static str; 2] = [
        include_str!("../../sql/sqlite/outbox.sql"),
        include_str!("../../sql/sqlite/inbox.sql"),
    ];

    async fn create() -> (String, Option<tempfile::TempDir>) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/test.db", folder.path().display());
        (url, Some(folder))
    }

    async fn unreachable() -> Pool<Self> {
        let options = SqlitePoolOptions::new();
        let options = options.acquire_timeout(Duration::from_millis(200));
        options
            .connect_lazy("sqlite:///no/such/folder/test.db")
            .unwrap()
    }

    async fn open(url: &str) -> Pool<Self> {
        let options: SqliteConnectOptions = url.parse().unwrap();
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().max_connections(12);
        pool.connect_with(options).await.unwrap()
    }

    async fn remove(_url: &str) {}

    statements!();
}
