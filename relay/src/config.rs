//! What the settings mean. All of them are checked here, before anything is connected.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use streams_core::{Error, Result};
#[cfg(feature = "redis")]
use streams_core::{ReadOptions, StreamName};
use streams_sql::Cleanup;
use tracing_subscriber::EnvFilter;

use crate::settings::{self, Asked, Task, Values};

/// What the arguments of the program ask for.
#[derive(Debug)]
pub enum Command {
    /// Print this.
    Print(String),
    /// Run with this configuration.
    Run(Box<Config>),
}

/// A checked configuration. Neither its `Debug` nor an error about it shows a value that may be
/// secret.
pub struct Config {
    pub(crate) task: Task,
    pub(crate) source: Source,
    pub(crate) relay: Relay,
    pub(crate) destination: String,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) log: Log,
    pub(crate) deadline: Duration,
}

/// The database and its outbox.
pub(crate) struct Source {
    pub(crate) database: Database,
    pub(crate) url: String,
    pub(crate) table: String,
    pub(crate) mode: Mode,
    pub(crate) wal: Wal,
    #[cfg(feature = "dynamodb")]
    pub(crate) dynamodb: DynamoDb,
    #[cfg(feature = "redis")]
    pub(crate) redis: Redis,
    pub(crate) connections: u32,
    pub(crate) connect_timeout: Duration,
}

/// How the relay works: see [`RelayBuilder`](streams_sql::RelayBuilder).
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) rows: u32,
    pub(crate) bytes: usize,
    pub(crate) lease: Duration,
    pub(crate) attempts: u32,
    pub(crate) row_backoff: (Duration, Duration),
    pub(crate) destination_backoff: (Duration, Duration),
    pub(crate) deferred: usize,
    pub(crate) poll_interval: (Duration, Duration),
    pub(crate) listen: bool,
    pub(crate) cleanup: Cleanup,
}

/// Which database the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    MySql,
    Sqlite,
    DynamoDb,
    Redis,
}

/// How the source is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Poll,
    Wal,
    Streams,
}

/// What the server keeps for a relay that reads the write-ahead log.
#[derive(Debug)]
pub(crate) struct Wal {
    pub(crate) slot: String,
    pub(crate) publication: String,
    pub(crate) manage: bool,
}

/// The tables of DynamoDB.
#[derive(Debug)]
#[cfg(feature = "dynamodb")]
pub(crate) struct DynamoDb {
    pub(crate) leases_table: String,
    pub(crate) partitions: u32,
}

/// What is read of Redis. Of another database it is empty.
#[derive(Debug)]
#[cfg(feature = "redis")]
pub(crate) struct Redis {
    pub(crate) streams: Vec<StreamName>,
    pub(crate) group: String,
}

/// The settings that others have no use for.
const NOT_WAL: [&str; 2] = ["relay.poll_interval", "relay.listen"];
const ONLY_WAL: [&str; 3] = ["wal.slot", "wal.publication", "wal.manage"];
const ONLY_DYNAMODB: [&str; 2] = ["dynamodb.leases_table", "dynamodb.partitions"];
const NOT_DYNAMODB: [&str; 3] = [
    "source.connections",
    "source.connect_timeout",
    "relay.listen",
];
const ONLY_REDIS: [&str; 2] = ["redis.streams", "redis.group"];
const NOT_REDIS: [&str; 8] = [
    "source.table",
    "source.mode",
    "source.connections",
    "source.connect_timeout",
    "relay.deferred",
    "relay.poll_interval",
    "relay.listen",
    "relay.keep",
];

/// How log events are written.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) json: bool,
    pub(crate) filter: String,
}

impl Command {
    /// Reads the arguments (without the program's name), the environment, and the file that one of
    /// them names. A flag wins over a variable, a variable over the file.
    ///
    /// ```
    /// use streams_relay::Command;
    ///
    /// let arguments = ["--source-url", "sqlite:app.db", "--destination-url", "stdout:"];
    /// let command = Command::read(arguments.map(Into::into), [])?;
    /// assert!(matches!(command, Command::Run(_)));
    ///
    /// let error = Command::read(["--sauce-url".into()], []).unwrap_err();
    /// assert!(error.to_string().contains("--sauce-url"));
    /// # Ok::<(), streams_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for the first setting that is unknown,
    /// missing or wrong, saying where it is and what to do.
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        Ok(match settings::read(arguments, environment)? {
            Asked::Help => Self::Print(settings::help()),
            Asked::Version => Self::Print(format!("streams-relay {}\n", env!("CARGO_PKG_VERSION"))),
            Asked::Run(task, values) => Self::Run(Box::new(Config::new(task, &values)?)),
        })
    }
}

impl Config {
    fn new(task: Task, values: &Values) -> Result<Self> {
        let listen = match values.need("http.listen")? {
            "off" => None,
            address => Some(address.parse().map_err(|_| {
                values.wrong(
                    "http.listen",
                    "is no address; give an IP address with a port such as 127.0.0.1:9465, or off",
                )
            })?),
        };
        let formats = [("text", false), ("json", true)];
        let filter = values.need("log.filter")?;
        EnvFilter::try_new(filter).map_err(|_| {
            values.wrong(
                "log.filter",
                "is no filter; give a level (error, warn, info, debug, trace), or levels of parts, as \
                 in info,streams_sql=debug",
            )
        })?;
        Ok(Self {
            task,
            source: Source::new(values)?,
            relay: Relay::new(values)?,
            destination: values.need("destination.url")?.to_owned(),
            listen,
            log: Log {
                json: choice(values, "log.format", &formats)?,
                filter: filter.to_owned(),
            },
            deadline: duration(values, "stop.deadline")?,
        })
    }
}

impl Source {
    fn new(values: &Values) -> Result<Self> {
        let url = values.need("source.url")?;
        let database = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Database::Postgres,
            Some("mysql" | "mariadb") => Database::MySql,
            Some("sqlite") => Database::Sqlite,
            Some("dynamodb") => Database::DynamoDb,
            // Also `redis+cluster` and the like, which the driver knows.
            Some(scheme) if matches!(scheme.split('+').next(), Some("redis" | "rediss")) => {
                Database::Redis
            }
            _ => {
                return Err(values.wrong(
                    "source.url",
                    "begins with no database that this program knows; write \
                     postgres://user:password@host/database, mysql://user:password@host/database, \
                     sqlite://file, dynamodb:?region=eu-west-1 or redis://user:password@host",
                ));
            }
        };
        let useless: [&[&str]; 3] = match database {
            Database::Postgres | Database::MySql | Database::Sqlite => {
                [&ONLY_DYNAMODB, &ONLY_REDIS, &[]]
            }
            Database::DynamoDb => [&NOT_DYNAMODB, &ONLY_REDIS, &[]],
            Database::Redis => [&NOT_REDIS, &ONLY_DYNAMODB, &ONLY_WAL],
        };
        if let Some(name) = useless.concat().iter().find(|name| values.is_given(name)) {
            return Err(values.wrong(name, "is of no use with this `source.url`; leave it out"));
        }
        let modes = [
            ("poll", Mode::Poll),
            ("wal", Mode::Wal),
            ("streams", Mode::Streams),
        ];
        let mode = choice(values, "source.mode", &modes)?;
        if mode == Mode::Wal && database != Database::Postgres {
            return Err(values.wrong(
                "source.mode",
                "is wal, but only PostgreSQL has a write-ahead log to read; take poll",
            ));
        }
        if mode == Mode::Streams && database != Database::DynamoDb {
            return Err(values.wrong(
                "source.mode",
                "is streams, but only DynamoDB has streams to read; take poll",
            ));
        }
        let of_mode = match mode {
            Mode::Poll | Mode::Streams => &ONLY_WAL[..],
            Mode::Wal => &NOT_WAL[..],
        };
        if let Some(name) = of_mode.iter().find(|name| values.is_given(name)) {
            return Err(values.wrong(
                name,
                "is of no use in this `source.mode`; leave it out, or take the other mode",
            ));
        }
        Ok(Self {
            database,
            url: url.to_owned(),
            table: values.need("source.table")?.to_owned(),
            mode,
            wal: Wal {
                slot: values.need("wal.slot")?.to_owned(),
                publication: values.need("wal.publication")?.to_owned(),
                manage: yes_or_no(values, "wal.manage")?,
            },
            #[cfg(feature = "dynamodb")]
            dynamodb: DynamoDb {
                leases_table: values.need("dynamodb.leases_table")?.to_owned(),
                partitions: number(values, "dynamodb.partitions", 1, 1024)?,
            },
            #[cfg(feature = "redis")]
            redis: Redis::new(values, database)?,
            connections: number(values, "source.connections", 3, 1000)?,
            connect_timeout: duration(values, "source.connect_timeout")?,
        })
    }
}

#[cfg(feature = "redis")]
impl Redis {
    fn new(values: &Values, database: Database) -> Result<Self> {
        let group = values.need("redis.group")?.to_owned();
        let mut streams = Vec::new();
        if database != Database::Redis {
            return Ok(Self { streams, group });
        }
        for name in values.need("redis.streams")?.split(',') {
            let name = StreamName::new(name.trim()).map_err(|_| {
                values.wrong(
                    "redis.streams",
                    "has a name that no stream can have; give names with commas between them, as in \
                     orders, payments",
                )
            })?;
            if streams.contains(&name) {
                return Err(values.wrong("redis.streams", "has a name twice; leave one out"));
            }
            ReadOptions::new(&name)?.group(&group).map_err(|_| {
                values.wrong(
                    "redis.group",
                    "cannot be the name of a group; take one without white space and any of *?[]",
                )
            })?;
            streams.push(name);
        }
        Ok(Self { streams, group })
    }
}

impl Source {
    /// What is read, for the log.
    pub(crate) fn reads(&self) -> String {
        match self.database {
            #[cfg(feature = "redis")]
            Database::Redis => {
                let streams: Vec<_> = self.redis.streams.iter().map(StreamName::as_str).collect();
                format!("{} as {}", streams.join(", "), self.redis.group)
            }
            _ => format!("{} by {:?}", self.table, self.mode),
        }
    }
}

impl Relay {
    fn new(values: &Values) -> Result<Self> {
        Ok(Self {
            rows: number(values, "relay.rows", 1, 5_000)?,
            bytes: size(values, "relay.bytes")?,
            lease: duration(values, "relay.lease")?,
            attempts: number(values, "relay.attempts", 1, 1_000_000)?,
            row_backoff: range(values, "relay.row_backoff")?,
            destination_backoff: range(values, "relay.destination_backoff")?,
            deferred: number(values, "relay.deferred", 1, 10_000_000)? as usize,
            poll_interval: range(values, "relay.poll_interval")?,
            listen: yes_or_no(values, "relay.listen")?,
            cleanup: match values.need("relay.keep")? {
                "off" => Cleanup::Delete,
                _ => Cleanup::Keep(duration(values, "relay.keep")?),
            },
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("task", &self.task)
            .field("source", &self.source)
            .field("relay", &self.relay)
            .field("destination", &scheme(&self.destination))
            .field("listen", &self.listen)
            .field("log", &self.log)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("database", &self.database)
            .field("reads", &self.reads())
            .finish_non_exhaustive()
    }
}

/// For `map_err`: what was refused is the value of this setting.
pub(crate) fn of_setting(name: &'static str) -> impl FnOnce(Error) -> Error {
    move |error| Error::new(error.kind(), format!("`{name}` is wrong")).source(error)
}

/// What may be shown of a URL without asking what of it is secret.
pub(crate) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("?", |(scheme, _)| scheme)
}

fn yes_or_no(values: &Values, name: &'static str) -> Result<bool> {
    choice(values, name, &[("true", true), ("false", false)])
}

fn choice<T: Copy>(values: &Values, name: &'static str, choices: &[(&str, T)]) -> Result<T> {
    let value = values.need(name)?;
    let chosen = choices.iter().find(|(choice, _)| *choice == value);
    chosen.map(|(_, chosen)| *chosen).ok_or_else(|| {
        let known: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
        values.wrong(
            name,
            format!("is none of its values; take {}", known.join(" or ")),
        )
    })
}

fn number(values: &Values, name: &'static str, least: u32, most: u32) -> Result<u32> {
    let number = values.need(name)?.parse().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            let what = format!("is no whole number from {least} to {most}; give one");
            values.wrong(name, what)
        })
}

fn duration(values: &Values, name: &'static str) -> Result<Duration> {
    parse_duration(values.need(name)?).ok_or_else(|| {
        values.wrong(
            name,
            "is no duration above 0; give one with its unit, such as 500ms, 30s or 7d",
        )
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let duration = humantime::parse_duration(text.trim()).ok()?;
    (!duration.is_zero()).then_some(duration)
}

/// Two durations, as in `10ms..1s`.
fn range(values: &Values, name: &'static str) -> Result<(Duration, Duration)> {
    let range = values.need(name)?.split_once("..").and_then(|(from, to)| {
        let (from, to) = (parse_duration(from)?, parse_duration(to)?);
        (from <= to).then_some((from, to))
    });
    range.ok_or_else(|| {
        values.wrong(
            name,
            "is no range of durations; give the shortest and the longest, as in 100ms..30s",
        )
    })
}

/// A number of bytes, as in `4MiB`.
fn size(values: &Values, name: &'static str) -> Result<usize> {
    let text = values.need(name)?.trim();
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let unit = units.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, factor) = match unit {
        Some((unit, factor)) => (text.trim_end_matches(unit), *factor),
        None => (text, 1),
    };
    let number: Option<usize> = number.trim().parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        let what = "is no size above 0; give a number of bytes, or one with KiB, MiB or GiB";
        values.wrong(name, what)
    })
}
