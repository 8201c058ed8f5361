//! NATS.

use std::process::Command;

use crate::install::debian;
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

/// NATS with JetStream.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Nats {}

impl Nats {
    /// With streams on disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Installs it if it is missing, starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or does not start, with the end of its log.
    pub fn start(self) -> Result<Server> {
        Server::start(&self)
    }
}

impl Recipe for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn install(&self) -> Result {
        debian::require("nats-server", "nats-server").map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut nats = Command::new("nats-server");
        nats.current_dir(place.folder())
            .args(["-a", "127.0.0.1", "-p", &place.port(0).to_string()])
            .args(["-js", "-sd", "data"]);
        Ok(nats)
    }

    /// It introduces itself.
    fn ask(&self, place: &Place) -> Result {
        ask::expect(place.address(0), b"", b"INFO {")
    }

    fn url(&self, place: &Place) -> String {
        format!("nats://{}", place.address(0))
    }
}
