//! One process of Kafka.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::archive::Archive;
use crate::install::maven::{self, Jars};
use crate::install::run;
use crate::place::Place;
use crate::server::Recipe;
use crate::{Error, Result, ask};

// Ports of a node's place.
pub(super) const CLIENTS: usize = 0;
pub(super) const CONTROLLER: usize = 1;
/// Where the broker listens for the proxy.
pub(super) const PROXIED: usize = 2;
/// Where the proxy listens.
pub(super) const PROXY: usize = 3;
#[cfg(feature = "security")]
pub(super) const SECURE: usize = 4;
pub(super) const PORTS: usize = 5;

/// Kafka's own package is the broker; what writes its log is not among its dependencies.
pub(super) const JARS: Jars = Jars {
    artifacts: &[
        "org.apache.kafka:kafka_2.13:4.3.1",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
        "org.apache.logging.log4j:log4j-core:2.25.3",
    ],
    ..Jars::new("kafka")
};

const LOG: &str = "\
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
";

pub(super) struct Node {
    pub(super) id: usize,
    pub(super) jars: PathBuf,
    pub(super) archive: Archive,
    /// In mebibytes.
    pub(super) heap: u32,
    /// All of `server.properties`.
    pub(super) properties: String,
    pub(super) cluster_id: String,
    /// For SCRAM, as Kafka's tool for formatting takes them.
    pub(super) users: Vec<String>,
}

impl Recipe for Node {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn install(&self) -> Result {
        JARS.folder().map(drop)
    }

    fn ports(&self) -> usize {
        PORTS
    }

    fn prepare(&self, place: &Place) -> Result {
        let properties = place.write("server.properties", &self.properties)?;
        place.write("log4j2.properties", LOG)?;
        let mut format = maven::java(&self.jars, 128, place.folder());
        format
            .args(self.archive.option_to_read())
            .args(["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool"])
            .args(["format", "--cluster-id", &self.cluster_id, "--config"])
            .arg(properties);
        for user in &self.users {
            format.args(["--add-scram", user]);
        }
        run(&mut format).map(drop)
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut java = maven::java(&self.jars, self.heap, place.folder());
        java.args(self.archive.option())
            .arg("-Dlog4j2.configurationFile=log4j2.properties")
            .args(["kafka.Kafka", "server.properties"]);
        Ok(java)
    }

    /// The broker knows of itself: it has joined the cluster, and serves.
    fn ask(&self, place: &Place) -> Result {
        let brokers = brokers(place.address(CLIENTS)).map_err(Error::doing("no answer"))?;
        if brokers.contains(&self.id) {
            return Ok(());
        }
        Err(Error::new(format!("the brokers are {brokers:?}")))
    }
}

/// The ids of the brokers, asked by a metadata request (version 1) for no topic.
pub(super) fn brokers(address: SocketAddr) -> std::io::Result<Vec<usize>> {
    let mut stream = ask::connect(address)?;
    let request: [&[u8]; 5] = [
        &3_u16.to_be_bytes(),    // metadata
        &1_u16.to_be_bytes(),    // version
        &7_u32.to_be_bytes(),    // correlation
        &(-1_i16).to_be_bytes(), // no client id
        &0_u32.to_be_bytes(),    // no topic
    ];
    let request = request.concat();
    stream.write_all(
        &u32::try_from(request.len())
            .unwrap_or_default()
            .to_be_bytes(),
    )?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut response = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut response)?;
    let invalid = || std::io::Error::other("not the answer of a Kafka broker");
    parse(&response).ok_or_else(invalid)
}

/// Correlation id, then the list of brokers: id, host, port, rack.
fn parse(response: &[u8]) -> Option<Vec<usize>> {
    let mut rest = response;
    number(&mut rest, 4)?;
    let count = number(&mut rest, 4)?;
    let mut brokers = Vec::new();
    for _ in 0..count {
        brokers.push(number(&mut rest, 4)?);
        let host = number(&mut rest, 2)?;
        rest = rest.get(host..)?;
        number(&mut rest, 4)?;
        let rack = number(&mut rest, 2)?;
        if rack != usize::from(u16::MAX) {
            rest = rest.get(rack..)?;
        }
    }
    Some(brokers)
}

/// Takes a number of so many bytes.
fn number(rest: &mut &[u8], bytes: usize) -> Option<usize> {
    let (number, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some(number.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
}
