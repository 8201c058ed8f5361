//! A server, a client, tables and messages.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use streams_bench::SIZE;
use streams_core::{Message, ksuid};
use streams_dynamodb::{DynamoDb, NewTables, Outbox};
use streams_services::Service;
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Setup {
    pub(crate) runtime: Runtime,
    /// The client of the driver, which what is written by hand uses too.
    pub(crate) client: Client,
    pub(crate) dynamodb: DynamoDb,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let endpoint = Service::DynamoDb.address().expect("a server");
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let credentials = Credentials::new("local", "local", None, None, "bench");
        let region = Region::new("eu-west-1");
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .endpoint_url(&endpoint)
            .credentials_provider(credentials.clone());
        let client = Client::from_conf(config.build());
        let config = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .endpoint_url(endpoint)
            .credentials_provider(credentials);
        let streams = aws_sdk_dynamodbstreams::Client::from_conf(config.build());
        let driver = DynamoDb::builder().clients(client.clone(), streams);
        let dynamodb = runtime.block_on(driver.build()).expect("valid settings");
        Self {
            runtime,
            client,
            dynamodb,
        }
    }

    /// An outbox of one partition in tables of its own, and the name of its table. It has no stream: those
    /// of DynamoDB Local are the slower, the more they have had.
    pub(crate) fn outbox(&self, ordered: bool) -> (Outbox, String) {
        let table = name("outbox");
        let outbox = Outbox::builder(self.dynamodb.clone())
            .table(&table)
            .leases_table(name("relay"))
            .ordered(ordered)
            .build()
            .expect("valid settings");
        let new = NewTables::new().partitions(1).stream(false);
        let made = self.runtime.block_on(outbox.migrate(&new));
        made.expect("tables");
        (outbox, table)
    }
}

/// A name that nothing else has.
pub(crate) fn name(of: &str) -> String {
    format!("bench-{of}-{}", ksuid().expect("an id"))
}

/// A message of 256 bytes with a key of 100.
pub(crate) fn message(number: usize) -> Message {
    let message = Message::builder("bench").data(vec![b'x'; SIZE]);
    let message = message.key(format!("key-{}", number % 100));
    message.build().expect("a valid message")
}

pub(crate) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}
