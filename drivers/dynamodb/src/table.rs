//! Tables: their names, how they are made, and whether they are as they should be.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType, TableDescription, TableStatus, TimeToLiveSpecification,
};
use streams_core::{Backoff, Error, ErrorKind, Result};
use tokio::time::{Instant, sleep};

use crate::error::{code, error};
use crate::{DRIVER, DynamoDb};

/// The attribute by which DynamoDB deletes what has expired: Unix seconds, as in the Go library.
pub(crate) const TTL: &str = "expiration_time";

/// How long a table may take until it is active.
const PATIENCE: Duration = Duration::from_secs(120);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// A table and its keys, both of text.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    hash: &'static str,
    range: &'static str,
}

impl Table {
    /// # Errors
    /// `InvalidConfig` for a name that no table can have.
    pub(crate) fn new(name: &str, hash: &'static str, range: &'static str) -> Result<Self> {
        let fits = (3..=255).contains(&name.len());
        let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !fits || !name.chars().all(known) {
            return Err(Error::invalid_config(
                "this is no name of a table; take 3 to 255 letters, digits, `_`, `.` and `-`",
            )
            .driver(DRIVER)
            .with("table", name));
        }
        Ok(Self {
            name: name.to_owned(),
            hash,
            range,
        })
    }

    /// What the service knows of the table, if its keys are as they should be.
    ///
    /// # Errors
    /// - `NotFound` if it is not there.
    /// - `InvalidConfig` if it has another schema.
    pub(crate) async fn check(&self, dynamodb: &DynamoDb) -> Result<TableDescription> {
        let found = self.describe(dynamodb).await?;
        let problem = || {
            let message = format!(
                "the table has another schema; it needs `{}` (S) as partition key and `{}` (S) as \
                 sort key. Name another table, or delete this one and call `migrate`",
                self.hash, self.range
            );
            Error::new(ErrorKind::InvalidConfig, message)
                .operation("check")
                .driver(DRIVER)
                .with("table", &self.name)
        };
        let found = found.ok_or_else(|| {
            let message = "the table does not exist; call `migrate`, or make it as the README says";
            Error::new(ErrorKind::NotFound, message)
                .operation("check")
                .driver(DRIVER)
                .with("table", &self.name)
        })?;
        let keys: Vec<_> = found.key_schema().iter().collect();
        let key = |kind: KeyType, name: &str| {
            keys.iter()
                .any(|key| *key.key_type() == kind && key.attribute_name() == name)
                && found.attribute_definitions().iter().any(|attribute| {
                    attribute.attribute_name() == name
                        && *attribute.attribute_type() == ScalarAttributeType::S
                })
        };
        if keys.len() != 2 || !key(KeyType::Hash, self.hash) || !key(KeyType::Range, self.range) {
            return Err(problem());
        }
        Ok(found)
    }

    /// Makes the table with its TTL, where it is missing, and waits until it is active; with a stream
    /// of new images if it is to have one. `false` says that it was there.
    pub(crate) async fn create(&self, dynamodb: &DynamoDb, stream: bool) -> Result<bool> {
        let key = |name: &str, kind| {
            let key = KeySchemaElement::builder();
            key.attribute_name(name).key_type(kind).build()
        };
        let attribute = |name: &str| {
            let attribute = AttributeDefinition::builder().attribute_name(name);
            attribute.attribute_type(ScalarAttributeType::S).build()
        };
        let create = dynamodb
            .client
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .set_stream_specification(stream.then(images).transpose().map_err(built)?)
            .key_schema(key(self.hash, KeyType::Hash).map_err(built)?)
            .key_schema(key(self.range, KeyType::Range).map_err(built)?)
            .attribute_definitions(attribute(self.hash).map_err(built)?)
            .attribute_definitions(attribute(self.range).map_err(built)?);
        let created = match create.send().await {
            Ok(_) => true,
            Err(source) if code(&source) == Some("ResourceInUseException") => false,
            Err(source) => return Err(error(&source, "migrate").with("table", &self.name)),
        };
        let found = self.active(dynamodb).await?;
        if stream && !created && !streams(&found) {
            let update = dynamodb.client.update_table().table_name(&self.name);
            let update = update.stream_specification(images().map_err(built)?);
            if let Err(source) = update.send().await {
                return Err(error(&source, "migrate").with("table", &self.name));
            }
            self.active(dynamodb).await?;
        }
        self.expire(dynamodb).await?;
        Ok(created)
    }

    /// Waits until the table can be used.
    async fn active(&self, dynamodb: &DynamoDb) -> Result<TableDescription> {
        let until = Instant::now() + PATIENCE;
        for attempt in 1.. {
            let found = match self.check(dynamodb).await {
                // Others see a table a moment after it was made.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                found => Some(found?),
            };
            let active =
                |table: &TableDescription| table.table_status() == Some(&TableStatus::Active);
            if let Some(found) = found.filter(active) {
                return Ok(found);
            }
            if Instant::now() > until {
                break;
            }
            sleep(BACKOFF.delay(attempt)).await;
        }
        Err(Error::new(
            ErrorKind::Timeout,
            "the table did not become active in two minutes; look at it, and try again",
        )
        .operation("migrate")
        .driver(DRIVER)
        .with("table", &self.name))
    }

    async fn describe(&self, dynamodb: &DynamoDb) -> Result<Option<TableDescription>> {
        let describe = dynamodb.client.describe_table().table_name(&self.name);
        match describe.send().await {
            Ok(described) => Ok(described.table),
            Err(source) if code(&source) == Some("ResourceNotFoundException") => Ok(None),
            Err(source) => Err(error(&source, "check").with("table", &self.name)),
        }
    }

    /// Lets DynamoDB delete what has expired.
    async fn expire(&self, dynamodb: &DynamoDb) -> Result<()> {
        let ttl = TimeToLiveSpecification::builder().enabled(true);
        let ttl = ttl.attribute_name(TTL).build().map_err(built)?;
        let update = dynamodb.client.update_time_to_live();
        let update = update
            .table_name(&self.name)
            .time_to_live_specification(ttl);
        let Err(source) = update.send().await else {
            return Ok(());
        };
        let described = dynamodb.client.describe_time_to_live();
        let described = described.table_name(&self.name).send().await;
        let known = described
            .ok()
            .and_then(|found| found.time_to_live_description);
        // It was set before, or somebody else sets it right now.
        match known.and_then(|known| known.attribute_name) {
            Some(attribute) if attribute == TTL => Ok(()),
            _ => Err(error(&source, "migrate").with("table", &self.name)),
        }
    }

    pub(crate) async fn delete(&self, dynamodb: &DynamoDb) -> Result<bool> {
        let delete = dynamodb.client.delete_table().table_name(&self.name);
        match delete.send().await {
            Ok(_) => Ok(true),
            Err(source) if code(&source) == Some("ResourceNotFoundException") => Ok(false),
            Err(source) => Err(error(&source, "delete").with("table", &self.name)),
        }
    }
}

/// Whether a table has a stream with new images.
pub(crate) fn streams(table: &TableDescription) -> bool {
    table.stream_specification().is_some_and(|stream| {
        let kind = stream.stream_view_type();
        let images = [StreamViewType::NewImage, StreamViewType::NewAndOldImages];
        stream.stream_enabled() && kind.is_some_and(|kind| images.contains(kind))
    })
}

fn images() -> Result<StreamSpecification, aws_sdk_dynamodb::error::BuildError> {
    let images = StreamSpecification::builder().stream_enabled(true);
    images.stream_view_type(StreamViewType::NewImage).build()
}

/// What is built here has all it needs.
pub(crate) fn built(source: aws_sdk_dynamodb::error::BuildError) -> Error {
    Error::new(ErrorKind::Other, "a request could not be built").source(source)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}
