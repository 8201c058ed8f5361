//! etcd.

use std::process::Command;

use crate::install::debian;
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

/// etcd, one member.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Etcd {}

impl Etcd {
    /// It waits for the disk at every write.
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

impl Recipe for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn install(&self) -> Result {
        debian::require("etcd", "etcd-server").map(drop)
    }

    /// For clients, and for other members.
    fn ports(&self) -> usize {
        2
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let clients = self.url(place);
        let peers = format!("http://{}", place.address(1));
        let mut etcd = Command::new("etcd");
        etcd.current_dir(place.folder())
            .args(["--data-dir", "data"])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")]);
        Ok(etcd)
    }

    /// It has elected itself.
    fn ask(&self, place: &Place) -> Result {
        ask::http(place.address(0), "/health")
    }

    fn url(&self, place: &Place) -> String {
        format!("http://{}", place.address(0))
    }
}
