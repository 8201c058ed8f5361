//! DynamoDB Local.

use std::fs;
use std::process::Command;

use crate::install::maven::{self, Jars};
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Error, Result, ask};

const JARS: Jars = Jars {
    artifacts: &["software.amazon.dynamodb:DynamoDBLocal:3.3.1"],
    // Maven Central lacks parts of the version it asks for.
    versions: &["software.amazon.awssdk:bom:2.54.15"],
    source: Some(("Loopback", include_str!("Loopback.java"))),
    ..Jars::new("dynamodb")
};

/// DynamoDB Local, with Streams, on disk. It takes any credentials, and has one set of tables for all
/// of them. Amazon's licence allows to use it, and not to redistribute it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DynamoDb {}

impl DynamoDb {
    /// With no table.
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

impl Recipe for DynamoDb {
    fn name(&self) -> &'static str {
        "dynamodb"
    }

    fn install(&self) -> Result {
        JARS.folder().map(drop)
    }

    fn prepare(&self, place: &Place) -> Result {
        let data = place.file("data");
        fs::create_dir(&data).map_err(Error::doing(data.display()))
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let jars = JARS.folder()?;
        let mut java = maven::java(&jars, 256, place.folder());
        java.arg(format!("-Djava.library.path={}", jars.display()))
            .args(["Loopback", "-port", &place.port(0).to_string()])
            .args(["-dbPath", "data", "-sharedDb", "-disableTelemetry"]);
        Ok(java)
    }

    /// It lists its tables.
    fn ask(&self, place: &Place) -> Result {
        let address = place.address(0);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             X-Amz-Target: DynamoDB_20120810.ListTables\r\n\
             Content-Type: application/x-amz-json-1.0\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=any/20200101/any/dynamodb/aws4_request, \
             SignedHeaders=host, Signature=any\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        ask::expect(address, request.as_bytes(), b"HTTP/1.1 200")
    }

    fn url(&self, place: &Place) -> String {
        format!("http://{}", place.address(0))
    }
}
