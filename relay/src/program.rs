//! The program, from its configuration to its exit code.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use streams_core::{Error, ErrorKind, Result, Writer as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Database, scheme};
use crate::destination::{self, Destination};
use crate::signals::Signals;
use crate::source::{self, Report, Source};
use crate::status::Status;
use crate::{http, logs};

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As it was asked to: exit code 0.
    Well,
    /// With an error, which was said: exit code 1.
    Failed,
    /// By a setting that is wrong, which was said: exit code 2.
    Misconfigured,
    /// Before it had stopped, by the deadline or a second signal: exit code 3. What was being written
    /// may be written again.
    CutShort,
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(match ended {
            Ended::Well => 0,
            Ended::Failed => 1,
            Ended::Misconfigured => 2,
            Ended::CutShort => 3,
        })
    }
}

/// Does what the configuration says, until a signal stops it. It logs to standard error, and says
/// there what went wrong.
pub async fn run(config: Config) -> Ended {
    logs::init(&config.log);
    let (source, destination) = match open(&config).await {
        Ok(both) => both,
        Err(error) => {
            say(&error);
            return Ended::Misconfigured;
        }
    };
    if config.task.migrate || config.task.check {
        return chores(&config, &*source).await.unwrap_or_else(|error| {
            say(&error);
            Ended::Failed
        });
    }
    serve(&config, source, destination)
        .await
        .unwrap_or_else(|error| {
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(error = with_causes(&error), "the relay failed");
            } else {
                say(&error);
            }
            Ended::Failed
        })
}

/// Prints an error to standard error, with its causes.
pub fn say(error: &Error) {
    eprintln!("error: {}", with_causes(error));
}

fn with_causes(error: &Error) -> String {
    // What is a method of the library is a flag here.
    let mut text = error
        .to_string()
        .replace("call `migrate`", "run streams-relay with --migrate")
        .replace("for all with `Redis::set_lease`", "for all with --migrate");
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some repeat their cause.
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

/// Both ends. Nothing is connected yet.
async fn open(config: &Config) -> Result<(Arc<dyn Source>, Arc<Destination>)> {
    let destination = Destination::open(config).await?;
    let source = source::open(config, destination.clone()).await?;
    Ok((source, destination))
}

async fn chores(config: &Config, source: &dyn Source) -> Result<Ended> {
    let mut done = String::new();
    if config.task.migrate {
        source.migrate().await?;
        done.push_str(match config.source.database {
            Database::Redis => "the streams are there\n",
            _ => "the tables are up to date\n",
        });
    }
    if config.task.check {
        source.check().await?;
        destination::check(&config.destination).await?;
        done.push_str("the settings are right, and source and destination answer\n");
    }
    // If nobody reads it, it is done all the same.
    let _ = std::io::stdout().write_all(done.as_bytes());
    Ok(Ended::Well)
}

async fn serve(
    config: &Config,
    source: Arc<dyn Source>,
    destination: Arc<Destination>,
) -> Result<Ended> {
    let mut signals = Signals::new()?;
    let status = Status::new(source.clone(), destination.clone());
    // They end with this function.
    let mut beside = JoinSet::new();
    if let Some(address) = config.listen {
        let metrics = PrometheusBuilder::new()
            .install_recorder()
            .map_err(|error| {
                Error::new(ErrorKind::Other, "metrics cannot be kept").source(error)
            })?;
        let listener = http::listen(address).await?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "health and metrics are served");
        }
        beside.spawn(http::upkeep(metrics.clone()));
        beside.spawn(http::serve(listener, status.clone(), metrics));
    }
    tracing::info!(
        database = ?config.source.database,
        reads = config.source.reads(),
        destination = scheme(&config.destination),
        "the relay starts"
    );
    let (stop, stopped) = watch::channel(false);
    let mut relay = tokio::spawn(async move {
        let report = source.relay(stopped).await;
        let closed = destination.close().await;
        report.and_then(|report| closed.map(|()| report))
    });

    let signal = tokio::select! {
        ended = &mut relay => return ended.map_err(|error| crashed(&error))?.map(well),
        signal = signals.next() => signal,
    };
    tracing::info!(signal, deadline = ?config.deadline, "the relay stops");
    status.stopping();
    stop.send_replace(true);
    let why = tokio::select! {
        ended = &mut relay => return ended.map_err(|error| crashed(&error))?.map(well),
        _ = signals.next() => "a second signal came",
        () = tokio::time::sleep(config.deadline) => "the deadline has passed",
    };
    relay.abort();
    tracing::warn!("{why}; what was being written may be written again");
    Ok(Ended::CutShort)
}

fn well(report: Report) -> Ended {
    tracing::info!(
        messages = report.messages,
        rows = report.rows,
        failures = report.failures,
        set_aside = report.set_aside,
        "the relay has stopped"
    );
    Ended::Well
}

fn crashed(error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Panic, format!("the relay crashed: {error}"))
}
