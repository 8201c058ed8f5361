//! The settings there are, and where their values come from: a file, the environment, flags.
//!
//! Each setting has one name, `section.key`, which gives its place in the file, its variable and its
//! flag. All values are text here; [`Config`](crate::Config) knows what they mean.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use streams_core::{Error, Result};

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `section.key`.
    pub(crate) name: &'static str,
    /// What its value is, for the help.
    pub(crate) takes: &'static str,
    /// Its value where none is given.
    pub(crate) default: Option<&'static str>,
    /// What it does.
    pub(crate) help: &'static str,
}

impl Setting {
    fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "_").to_uppercase())
    }
}

/// How the variables begin.
const PREFIX: &str = "STREAMS_RELAY_";

/// Names the file, where no flag does.
const CONFIG_VARIABLE: &str = "STREAMS_RELAY_CONFIG";

const fn setting(
    name: &'static str,
    takes: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        takes,
        default,
        help,
    }
}

/// What can be set.
#[rustfmt::skip]
pub(crate) static SETTINGS: &[Setting] = &[
    setting("source.url", "URL", None,
        "the database: postgres://, mysql:// (MariaDB too), sqlite://, dynamodb: or redis://"),
    setting("source.table", "NAME", Some("streams_egress"),
        "the table of the outbox"),
    setting("source.mode", "poll|wal|streams", Some("poll"),
        "how rows are found: by queries, in the write-ahead log of PostgreSQL, or in the stream of DynamoDB"),
    setting("source.connections", "N", Some("4"),
        "most connections to the database, from 3"),
    setting("source.connect_timeout", "DURATION", Some("10s"),
        "how long opening one may take"),
    setting("relay.rows", "N", Some("500"),
        "most rows that are read and written together"),
    setting("relay.bytes", "SIZE", Some("4MiB"),
        "most bytes of them; four times as much is held"),
    setting("relay.lease", "DURATION", Some("30s"),
        "how long after its last sign of life another takes over; one write may take half"),
    setting("relay.attempts", "N", Some("10"),
        "after how many a row is set aside"),
    setting("relay.row_backoff", "FROM..TO", Some("1s..1m"),
        "how long a row waits that was not taken while others were"),
    setting("relay.destination_backoff", "FROM..TO", Some("100ms..30s"),
        "how long all wait when the destination takes nothing"),
    setting("relay.deferred", "N", Some("10000"),
        "how many rows may wait to be tried again"),
    setting("relay.poll_interval", "FROM..TO", Some("10ms..1s"),
        "mode poll: how often it looks for rows that it was not told of"),
    setting("relay.listen", "true|false", Some("true"),
        "mode poll: whether it listens for notifications of PostgreSQL"),
    setting("relay.keep", "DURATION|off", Some("off"),
        "how long rows stay in the table after they were forwarded"),
    setting("wal.slot", "NAME", Some("streams_egress_proxy_worker"),
        "mode wal: the replication slot"),
    setting("wal.publication", "NAME", Some("streams_egress_proxy"),
        "mode wal: the publication"),
    setting("wal.manage", "true|false", Some("true"),
        "mode wal: whether both are made where they are missing"),
    setting("dynamodb.leases_table", "NAME", Some("streams_relay"),
        "dynamodb: the table of leases and checkpoints"),
    setting("dynamodb.partitions", "N", Some("8"),
        "dynamodb: among how many partitions messages are spread, in a table that --migrate makes"),
    setting("redis.streams", "NAMES", None,
        "redis: the streams that are read, with commas between them"),
    setting("redis.group", "NAME", Some("streams-relay"),
        "redis: the consumer group that all relays of these streams are in"),
    setting("destination.url", "URL", None,
        "where the messages go: kafka://, sqs:, sns:, redis://, stdout: or, to try, chanbuf:"),
    setting("http.listen", "ADDRESS|off", Some("127.0.0.1:9465"),
        "where /healthz, /readyz and /metrics are served"),
    setting("log.format", "text|json", Some("text"),
        "how log events are written to standard error"),
    setting("log.filter", "FILTER", Some("info"),
        "which are: a level, or as in info,streams_sql=debug"),
    setting("stop.deadline", "DURATION", Some("30s"),
        "how long a graceful stop may take"),
];

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Task {
    pub(crate) migrate: bool,
    pub(crate) check: bool,
}

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Asked {
    Help,
    Version,
    Run(Task, Values),
}

/// Where a value was given.
#[derive(Debug, Clone)]
enum Origin {
    File(PathBuf),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the variable {name}"),
            Self::Flag(name) => write!(f, "in the flag --{name}"),
        }
    }
}

/// The value of each setting that was given, those of higher precedence alone.
#[derive(Default)]
pub(crate) struct Values(BTreeMap<&'static str, (String, Origin)>);

impl fmt::Debug for Values {
    /// Names only: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Values {
    /// The value of a setting, or its default; `None` if it has neither.
    pub(crate) fn get(&self, name: &'static str) -> Option<&str> {
        let default = || {
            let setting = SETTINGS.iter().find(|setting| setting.name == name);
            setting.and_then(|setting| setting.default)
        };
        self.0
            .get(name)
            .map(|(value, _)| value.as_str())
            .or_else(default)
    }

    /// Whether it was given.
    pub(crate) fn is_given(&self, name: &'static str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of a setting that must be given.
    pub(crate) fn need(&self, name: &'static str) -> Result<&str> {
        self.get(name).ok_or_else(|| missing(name))
    }

    /// An error about the value of a setting, which is not repeated: it may be secret.
    pub(crate) fn wrong(&self, name: &'static str, what: impl fmt::Display) -> Error {
        let origin = self.0.get(name).map(|(_, origin)| format!(" {origin}"));
        Error::invalid_config(format!("`{name}`{} {what}", origin.unwrap_or_default()))
    }

    fn set(&mut self, setting: &'static Setting, value: String, origin: Origin) {
        self.0.insert(setting.name, (value, origin));
    }
}

fn missing(name: &'static str) -> Error {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let ways = setting.map(|one| {
        format!(
            "; set it in the file, as {} or with --{}",
            one.variable(),
            one.flag()
        )
    });
    Error::invalid_config(format!("`{name}` is not set{}", ways.unwrap_or_default()))
}

/// Reads arguments, environment and file.
pub(crate) fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Asked> {
    let mut task = Task::default();
    let mut file = None;
    let mut flags = Vec::new();
    let mut parser = lexopt::Parser::from_args(arguments);
    // The text of the parser's errors has values in it.
    let no_value = |flag: &str| Error::invalid_config(format!("the flag --{flag} needs a value"));
    let not_text =
        |flag: &str| Error::invalid_config(format!("the value of --{flag} is not UTF-8"));
    loop {
        use lexopt::Arg::{Long, Short, Value};
        let unexpected = |error| match error {
            lexopt::Error::UnexpectedValue { option, .. } => {
                Error::invalid_config(format!("the flag {option} takes no value"))
            }
            _ => Error::invalid_config("the arguments cannot be read; see --help"),
        };
        match parser.next().map_err(unexpected)? {
            None => break,
            Some(Short('h') | Long("help")) => return Ok(Asked::Help),
            Some(Short('V') | Long("version")) => return Ok(Asked::Version),
            Some(Long("check")) => task.check = true,
            Some(Long("migrate")) => task.migrate = true,
            Some(Short('c') | Long("config")) => {
                file = Some(PathBuf::from(
                    parser.value().map_err(|_| no_value("config"))?,
                ));
            }
            Some(Long(flag)) => {
                let Some(setting) = SETTINGS.iter().find(|one| one.flag() == flag) else {
                    return Err(unknown("flag", &format!("--{flag}")));
                };
                let flag = setting.flag();
                let value = parser.value().map_err(|_| no_value(&flag))?;
                let value = value.into_string().map_err(|_| not_text(&flag))?;
                flags.push((setting, value, Origin::Flag(flag)));
            }
            Some(Short(flag)) => return Err(unknown("flag", &format!("-{flag}"))),
            Some(Value(_)) => {
                return Err(Error::invalid_config(
                    "there is an argument that belongs to no flag; all settings are flags such as \
                     --destination-url URL",
                ));
            }
        }
    }

    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        if name == CONFIG_VARIABLE {
            file.get_or_insert_with(|| PathBuf::from(value));
            continue;
        }
        let Some(setting) = SETTINGS.iter().find(|one| one.variable() == name) else {
            if is_of_kubernetes(name) {
                continue;
            }
            return Err(unknown("variable", name));
        };
        let not_text =
            |_| Error::invalid_config(format!("the value of the variable {name} is not UTF-8"));
        let value = value.into_string().map_err(not_text)?;
        variables.push((setting, value, Origin::Variable(name.to_owned())));
    }

    let mut values = Values::default();
    if let Some(file) = file {
        read_file(&file, &mut values)?;
    }
    for (setting, value, origin) in variables.into_iter().chain(flags) {
        values.set(setting, value, origin);
    }
    Ok(Asked::Run(task, values))
}

fn unknown(what: &str, name: &str) -> Error {
    Error::invalid_config(format!("there is no {what} {name}; --help lists them"))
}

/// Kubernetes sets such a variable in each container for a service that is called `streams-relay`.
fn is_of_kubernetes(variable: &str) -> bool {
    variable.ends_with("_SERVICE_HOST") || format!("{variable}_").contains("_PORT_")
}

fn read_file(path: &Path, values: &mut Values) -> Result<()> {
    let bad = |what: String| {
        Error::invalid_config(format!("the configuration {} {what}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        bad(format!(
            "cannot be read: {error}; check --config or {CONFIG_VARIABLE}"
        ))
    })?;
    let document: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // Not its whole text, which shows the line: it may hold a password.
        let line = error.span().map(|span| {
            let line = text[..span.start].matches('\n').count() + 1;
            format!(" in line {line}")
        });
        let message = error.message().replace('\n', ", ");
        bad(format!(
            "is not TOML{}: {message}",
            line.unwrap_or_default()
        ))
    })?;
    for (section, keys) in document {
        let is_known = |one: &Setting| one.name.split('.').next() == Some(section.as_str());
        if !SETTINGS.iter().any(is_known) {
            let mut sections: Vec<_> = SETTINGS
                .iter()
                .filter_map(|one| one.name.split('.').next())
                .map(|name| format!("[{name}]"))
                .collect();
            sections.dedup();
            return Err(bad(format!(
                "has `{section}`, which is no section; there are {}",
                sections.join(", ")
            )));
        }
        let toml::Value::Table(keys) = keys else {
            return Err(bad(format!(
                "has `{section}` as a value; it is a section: write [{section}] and its keys below"
            )));
        };
        for (key, value) in keys {
            let name = format!("{section}.{key}");
            let Some(setting) = SETTINGS.iter().find(|one| one.name == name) else {
                let known: Vec<_> = SETTINGS
                    .iter()
                    .filter(|one| is_known(one))
                    .map(|one| one.name)
                    .collect();
                return Err(bad(format!(
                    "has `{name}`, which is no setting; there are {}",
                    known.join(", ")
                )));
            };
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => yes.to_string(),
                toml::Value::Float(_)
                | toml::Value::Datetime(_)
                | toml::Value::Array(_)
                | toml::Value::Table(_) => {
                    return Err(bad(format!(
                        "has `{name}` as {}; it takes {}",
                        value.type_str(),
                        setting.takes
                    )));
                }
            };
            values.set(setting, value, Origin::File(path.to_owned()));
        }
    }
    Ok(())
}

/// What `--help` prints.
pub(crate) fn help() -> String {
    let mut text = String::from(HELP);
    for one in SETTINGS {
        let default = match one.default {
            Some(value) => format!("default: {value}"),
            None if one.name == "redis.streams" => "needed with redis".to_owned(),
            None => "needed".to_owned(),
        };
        let (flag, takes, help) = (one.flag(), one.takes, one.help);
        let _ = write!(text, "  --{flag} {takes}\n      {help} [{default}]\n");
    }
    text.push_str(HELP_END);
    text
}

const HELP: &str = "\
Moves the messages of a transactional outbox, or of streams of Redis, to another place.

usage: streams-relay [--config FILE] [SETTING]...

  -c, --config FILE   settings, as TOML
      --check         checks the settings, connects to source and destination, and exits
      --migrate       makes or upgrades the tables of the outbox, and exits
  -h, --help          prints this
  -V, --version       prints the version

settings:
";

const HELP_END: &str = "
Each is also a key of the file (--source-url is `url` below [source]) and a variable
(STREAMS_RELAY_SOURCE_URL). A flag wins over a variable, a variable over the file. Others see flags
(ps): put passwords in the file or in a variable. STREAMS_RELAY_CONFIG names the file too.

SIGTERM and SIGINT stop it: what is being written is finished, at most for the deadline. A second one
ends it at once; what was being written then may be written again.

exit code: 0  stopped as asked, or the check or migration went well
           1  the relay, the check or the migration failed
           2  wrong settings
           3  ended before it had stopped: by the deadline, or a second signal
";
