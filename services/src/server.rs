//! What all servers have in common.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::place::Place;
use crate::process::Process;
use crate::wait::until;
use crate::{Error, Result};

/// How long a server may take to answer. The slowest needs a few seconds, on a busy machine more.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a server may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(20);

/// Starts are repeated so often when another program takes a port.
const ATTEMPTS: usize = 5;

/// What the last lines of a log are.
const TAIL: usize = 40;

/// What is different from server to server.
pub(crate) trait Recipe: Send + Sync {
    /// As people call it on the command line.
    fn name(&self) -> &'static str;

    /// Puts on this machine what is missing.
    fn install(&self) -> Result;

    /// How many ports it listens on. The first is that of the clients.
    fn ports(&self) -> usize {
        1
    }

    /// Writes files, makes empty data.
    fn prepare(&self, place: &Place) -> Result {
        let _ = place;
        Ok(())
    }

    /// What to run.
    fn command(&self, place: &Place) -> Result<Command>;

    /// Who it runs as, for a server that refuses to run as root.
    fn user(&self) -> Option<&'static str> {
        None
    }

    /// Asks it something. The error says what came instead of an answer.
    fn ask(&self, place: &Place) -> Result;

    /// What clients connect to.
    fn url(&self, place: &Place) -> String {
        place.address(0).to_string()
    }
}

/// A server that runs on this machine, on free ports of loopback, with data in a folder of its own. It
/// is killed, and its data removed, when this is dropped, and when the process ends, even by kill -9.
///
/// All methods block, for seconds when they start or stop something. In asynchronous code, call them by
/// `spawn_blocking`, or where nothing else has to go on meanwhile.
///
/// ```
/// use streams_services::Redis;
///
/// # fn main() -> streams_services::Result {
/// let redis = Redis::new().start()?;
/// assert!(redis.url().starts_with("redis://127.0.0.1:"));
/// redis.kill(); // as a crash would
/// redis.restart()?; // on the same port
/// redis.wait_ready()?;
/// # Ok(())
/// # }
/// ```
pub struct Server {
    recipe: Box<dyn Recipe>,
    // Dropped in this order: the process first, then its folder and ports.
    process: Mutex<Option<Process>>,
    place: Place,
}

impl Server {
    /// Installs what is missing, starts it, and waits until it answers.
    pub(crate) fn start<R: Recipe + Clone + 'static>(recipe: &R) -> Result<Self> {
        recipe.install()?;
        with_free_ports(|| {
            let place = Place::new(recipe.name(), recipe.ports())?;
            let server = Self::spawn(Box::new(recipe.clone()), place)?;
            server.wait_ready()?;
            Ok(server)
        })
    }

    /// Starts what is installed, in a place that the caller chose.
    pub(crate) fn spawn(recipe: Box<dyn Recipe>, place: Place) -> Result<Self> {
        recipe.prepare(&place)?;
        let server = Self {
            recipe,
            process: Mutex::new(None),
            place,
        };
        server.restart()?;
        Ok(server)
    }

    /// What clients connect to: a URL, or for Kafka and etcd an address with a port.
    #[must_use]
    pub fn url(&self) -> String {
        self.recipe.url(&self.place)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.place.address(0)
    }

    /// The process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.process();
        let process = process.as_mut()?;
        process.exited().is_none().then(|| process.id())
    }

    /// Asks it to end in an orderly way, and kills it if it has not after 20 s. Nothing happens if it
    /// does not run. Whether it ended by itself.
    pub fn stop(&self) -> bool {
        let process = self.process().take();
        process.is_none_or(|mut process| {
            process.resume();
            process.terminate(GRACE)
        })
    }

    /// SIGKILL. Returns when it is gone; its data stays.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// SIGSTOP: connections stay open, and nobody answers. As a machine that hangs.
    pub fn pause(&self) {
        if let Some(process) = &mut *self.process() {
            process.pause();
        }
    }

    /// SIGCONT, after [`pause`](Self::pause).
    pub fn resume(&self) {
        if let Some(process) = &mut *self.process() {
            process.resume();
        }
    }

    /// Kills it if it runs, and starts it again on the same ports and data. Returns when the process
    /// has been started; [`wait_ready`](Self::wait_ready) waits until it answers.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart(&self) -> Result {
        let mut process = self.process();
        drop(process.take());
        let command = self.recipe.command(&self.place)?;
        let user = self.recipe.user();
        *process = Some(Process::spawn(&command, user, &self.place.log())?);
        Ok(())
    }

    /// Waits until it answers, two minutes at most.
    ///
    /// # Errors
    /// When it has ended, was not started, or does not answer, with the end of its log.
    pub fn wait_ready(&self) -> Result {
        let mut last = String::new();
        let ready = until(PATIENCE, || {
            match &mut *self.process() {
                None => return Some(Err(self.failure("does not run"))),
                Some(process) => {
                    if let Some(status) = process.exited() {
                        return Some(Err(self.ended(&format!("ended ({status})"))));
                    }
                }
            }
            match self.recipe.ask(&self.place) {
                Ok(()) => Some(Ok(())),
                Err(error) => {
                    last = error.to_string();
                    None
                }
            }
        });
        let patience = PATIENCE.as_secs();
        ready.unwrap_or_else(|| {
            Err(self.failure(&format!("does not answer after {patience} s ({last})")))
        })
    }

    /// What it printed, so far.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.place.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    fn ended(&self, what: &str) -> Error {
        let error = self.failure(what);
        match self.place.taken_port() {
            Some(port) => Error::port_taken(format!("port {port} is taken; {error}")),
            None => error,
        }
    }

    fn failure(&self, what: &str) -> Error {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        let name = self.recipe.name();
        Error::new(format!(
            "{name} {what}; its log ends with:\n{tail}\n(end of {name}'s log)"
        ))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.recipe.name())
            .field("address", &self.address())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// Starts anew, with new ports, when another program took one.
pub(crate) fn with_free_ports<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match start() {
            Err(error) if error.is_port_taken() && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_a_reason_to_start_anew_and_nothing_else_is() {
        let mut attempts = 0;
        let mut start = |error: fn() -> Error, good: usize| {
            attempts = 0;
            let started = with_free_ports(|| {
                attempts += 1;
                if attempts == good {
                    Ok(())
                } else {
                    Err(error())
                }
            });
            (started.is_ok(), attempts)
        };
        let taken = || Error::port_taken("port 1 is taken");
        assert_eq!(start(taken, 3), (true, 3));
        assert_eq!(start(taken, usize::MAX), (false, ATTEMPTS));
        assert_eq!(start(|| Error::new("no such file"), 3), (false, 1));
    }
}
