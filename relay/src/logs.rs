//! Log events, to standard error: standard output may be the destination.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::Log;

/// Writes what is logged from now on.
pub(crate) fn init(log: &Log) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&log.filter))
        .with_span_events(FmtSpan::NONE)
        .with_writer(io::stderr);
    // Whoever has set up logging before keeps it.
    let _ = if log.json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.with_ansi(false).try_init()
    };
}
