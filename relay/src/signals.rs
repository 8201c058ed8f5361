//! The signals that ask the program to stop.

use streams_core::{Error, ErrorKind, Result};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals from when it was made on.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(failed);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Signals from when it was made on.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self)
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        if let Err(error) = tokio::signal::ctrl_c().await {
            super::program::say(&failed(error));
        }
        "Ctrl-C"
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Other, "signals cannot be listened for").source(source)
}
