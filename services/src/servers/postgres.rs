//! PostgreSQL.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::install::{self, debian};
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Error, Result, ask};

/// PostgreSQL, ready for logical replication. User and database are `postgres`; no password.
#[derive(Debug, Clone, Default)]
pub struct Postgres {
    durable: bool,
    settings: Vec<String>,
}

impl Postgres {
    /// With `fsync` off: what is committed outlives kill -9, but not a loss of power.
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

    /// Sets what would stand in `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name}={value}"));
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

impl Recipe for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn install(&self) -> Result {
        if programs().is_err() {
            debian::require_package("postgresql", || programs().is_ok())?;
        }
        Ok(())
    }

    fn prepare(&self, place: &Place) -> Result {
        let data = place.file("data");
        fs::create_dir(&data).map_err(Error::doing(data.display()))?;
        let mut init = Command::new(programs()?.join("initdb"));
        init.arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "--no-sync"])
            .args(["-E", "UTF8", "--locale=C.UTF-8"])
            .current_dir(place.folder());
        if let Some(user) = self.user() {
            let id = |option| install::run(Command::new("id").args([option, user]));
            let number = |text: String| text.trim().parse::<u32>().ok();
            let owner = (number(id("-u")?), number(id("-g")?));
            std::os::unix::fs::chown(&data, owner.0, owner.1)
                .map_err(Error::doing(data.display()))?;
        }
        install::run(&mut crate::process::as_user(&init, self.user())).map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut postgres = Command::new(programs()?.join("postgres"));
        postgres
            .current_dir(place.folder())
            .args(["-D", "data", "-p", &place.port(0).to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "wal_level=logical"])
            .args(["-c", "max_connections=200"]);
        if !self.durable {
            postgres.args(["-c", "fsync=off"]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        Ok(postgres)
    }

    /// It refuses to run as root; Debian's package makes this user.
    fn user(&self) -> Option<&'static str> {
        rustix::process::getuid().is_root().then_some("postgres")
    }

    /// It lets the user in.
    fn ask(&self, place: &Place) -> Result {
        let words = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 4).unwrap_or_default();
        let startup = [&length.to_be_bytes(), &words[..]].concat();
        ask::expect(place.address(0), &startup, b"R")
    }

    fn url(&self, place: &Place) -> String {
        format!("postgres://postgres@{}/postgres", place.address(0))
    }
}

/// The folder of the programs: of the newest version where Debian has them, or on the `PATH`.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            folder
                .join("postgres")
                .exists()
                .then_some((version, folder))
        })
        .max();
    newest
        .map(|(_, folder)| folder)
        .or_else(|| Some(install::program("postgres")?.parent()?.to_path_buf()))
        .ok_or_else(|| Error::new("PostgreSQL is not installed"))
}
