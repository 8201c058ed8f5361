//! Redis.

use std::process::Command;

use crate::install::debian;
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

/// Redis, with an append-only file.
#[derive(Debug, Clone, Default)]
pub struct Redis {
    durable: bool,
}

impl Redis {
    /// What was answered outlives kill -9, but not a loss of power.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the disk at every write; slower.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Installs it if it is missing, starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or does not start, with the end of its log.
    pub fn start(self) -> Result<Server> {
        Server::start(&self)
    }
}

impl Recipe for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn install(&self) -> Result {
        debian::require("redis-server", "redis-server").map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut redis = Command::new("redis-server");
        redis
            .current_dir(place.folder())
            .args(["--port", &place.port(0).to_string()])
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync"])
            .arg(if self.durable { "always" } else { "no" });
        Ok(redis)
    }

    fn ask(&self, place: &Place) -> Result {
        ask::expect(place.address(0), b"PING\r\n", b"+PONG")
    }

    fn url(&self, place: &Place) -> String {
        format!("redis://{}", place.address(0))
    }
}
