//! ElasticMQ.

use std::process::Command;

use crate::install::maven::{self, Jars};
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

const JARS: Jars = Jars {
    artifacts: &["org.elasticmq:elasticmq-server_3:1.7.1"],
    ..Jars::new("elasticmq")
};

/// ElasticMQ, which imitates Amazon's SQS, in memory: a restart empties it. It takes any credentials.
/// The fastest of its kind, so the one to measure with.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ElasticMq {}

impl ElasticMq {
    /// With no queue.
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

impl Recipe for ElasticMq {
    fn name(&self) -> &'static str {
        "elasticmq"
    }

    fn install(&self) -> Result {
        JARS.folder().map(drop)
    }

    fn prepare(&self, place: &Place) -> Result {
        let port = place.port(0);
        let text = format!(
            "node-address {{ protocol = http, host = \"127.0.0.1\", port = {port} }}\n\
             rest-sqs {{ enabled = true, bind-hostname = \"127.0.0.1\", bind-port = {port} }}\n\
             rest-stats {{ enabled = false }}\n"
        );
        place.write("elasticmq.conf", &text).map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut java = maven::java(&JARS.folder()?, 256, place.folder());
        java.args(["-Dconfig.file=elasticmq.conf", "org.elasticmq.server.Main"]);
        Ok(java)
    }

    fn ask(&self, place: &Place) -> Result {
        ask::http(place.address(0), "/health")
    }

    fn url(&self, place: &Place) -> String {
        format!("http://{}", place.address(0))
    }
}
