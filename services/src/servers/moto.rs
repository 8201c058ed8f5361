//! Amazon's SQS and SNS, by moto.

use std::process::Command;

use crate::install::python;
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

const REQUIREMENTS: [&str; 1] = ["moto[server,sqs,sns]==5.2.1"];

/// moto, which imitates Amazon's SQS and SNS, in memory: a restart empties it. It takes any
/// credentials. Right for correctness, too slow to measure anything. Started by this it loses no message
/// where several are deleted at the same time, as it does by itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Moto {}

impl Moto {
    /// With no queue and no topic.
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

impl Recipe for Moto {
    fn name(&self) -> &'static str {
        "moto"
    }

    fn install(&self) -> Result {
        python::environment("moto", &REQUIREMENTS).map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        // The program `moto_server` names the folder it was installed in, which has got another name.
        let mut moto = Command::new(python::environment("moto", &REQUIREMENTS)?.join("python"));
        moto.current_dir(place.folder())
            .args(["-c", include_str!("moto.py")])
            .args(["-H", "127.0.0.1", "-p", &place.port(0).to_string()]);
        Ok(moto)
    }

    fn ask(&self, place: &Place) -> Result {
        ask::http(place.address(0), "/moto-api/data.json")
    }

    fn url(&self, place: &Place) -> String {
        format!("http://{}", place.address(0))
    }
}
