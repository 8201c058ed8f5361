//! MariaDB.

use std::process::Command;

use crate::install::{debian, run};
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Error, Result, ask};

/// MariaDB. The user is `root`, with no password; the database is `streams`.
#[derive(Debug, Clone, Default)]
pub struct MariaDb {
    durable: bool,
}

impl MariaDb {
    /// What is committed outlives kill -9, but not a loss of power.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the disk at every commit, as in production; slower.
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

impl Recipe for MariaDb {
    fn name(&self) -> &'static str {
        "mariadb"
    }

    fn install(&self) -> Result {
        debian::require("mariadbd", "mariadb-server").map(drop)
    }

    fn prepare(&self, place: &Place) -> Result {
        place.write("init.sql", "CREATE DATABASE IF NOT EXISTS streams;\n")?;
        let program = debian::require("mariadb-install-db", "mariadb-server")?;
        let mut init = Command::new(program);
        init.current_dir(place.folder())
            .arg("--no-defaults")
            .arg(format!("--datadir={}", place.file("data").display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg("--skip-name-resolve")
            .args(as_root());
        run(&mut init).map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut mariadb = Command::new(debian::require("mariadbd", "mariadb-server")?);
        let file = |option: &str, name| format!("--{option}={}", place.file(name).display());
        mariadb
            .current_dir(place.folder())
            .arg("--no-defaults")
            .args(as_root())
            .arg(file("datadir", "data"))
            .arg(file("socket", "socket"))
            .arg(file("pid-file", "pid"))
            .arg(file("init-file", "init.sql"))
            .arg(format!("--port={}", place.port(0)))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--skip-log-bin", "--max-connections=200"]);
        if !self.durable {
            mariadb.arg("--innodb-flush-log-at-trx-commit=2");
        }
        Ok(mariadb)
    }

    /// It greets, with version 10 of the protocol; it would refuse with an error instead.
    fn ask(&self, place: &Place) -> Result {
        match ask::say(place.address(0), b"")?.get(4) {
            Some(10) => Ok(()),
            _ => Err(Error::new("it does not greet")),
        }
    }

    fn url(&self, place: &Place) -> String {
        format!("mysql://root@{}/streams", place.address(0))
    }
}

/// It refuses to run as root unless told to.
fn as_root() -> Option<&'static str> {
    rustix::process::getuid().is_root().then_some("--user=root")
}
