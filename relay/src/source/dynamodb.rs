//! Outboxes in DynamoDB.

use std::sync::Arc;

use streams_core::{Result, Writer, async_trait};
use streams_dynamodb::{DynamoDb, NewTables, Outbox, Relay};
use tokio::sync::watch;

use super::{Report, Source, backoff, stop};
use crate::config::{Config, Mode, of_setting};

struct Tables {
    outbox: Outbox,
    relay: Relay,
    new: NewTables,
}

/// The source of a configuration. Nothing is asked of DynamoDB yet.
pub(crate) async fn open(
    config: &Config,
    mode: Mode,
    writer: Arc<dyn Writer>,
) -> Result<Arc<dyn Source>> {
    let (source, relay) = (&config.source, &config.relay);
    let dynamodb = DynamoDb::from_url(&source.url).await;
    let dynamodb = dynamodb.map_err(of_setting("source.url"))?;
    let outbox = Outbox::builder(dynamodb)
        .table(&source.table)
        .leases_table(&source.dynamodb.leases_table)
        .build()
        .map_err(of_setting("source.table` or `dynamodb.leases_table"))?;
    let (shortest, longest) = relay.poll_interval;
    let relay = Relay::builder(outbox.clone(), writer)
        .mode(match mode {
            Mode::Streams => streams_dynamodb::Mode::Streams,
            Mode::Poll | Mode::Wal => streams_dynamodb::Mode::Query,
        })
        .rows(relay.rows)
        .bytes(relay.bytes)
        .lease(relay.lease)
        .attempts(relay.attempts)
        .row_backoff(backoff(relay.row_backoff))
        .destination_backoff(backoff(relay.destination_backoff))
        .deferred(relay.deferred)
        .poll_interval(shortest, longest)
        .cleanup(relay.cleanup)
        .build()
        .map_err(of_setting("[relay]"))?;
    // Each takes a stream, so that a relay of either mode may come later.
    let new = NewTables::new().partitions(source.dynamodb.partitions);
    Ok(Arc::new(Tables { outbox, relay, new }))
}

#[async_trait]
impl Source for Tables {
    async fn migrate(&self) -> Result<()> {
        self.outbox.migrate(&self.new).await
    }

    async fn check(&self) -> Result<()> {
        self.outbox.check().await
    }

    async fn relay(&self, stopped: watch::Receiver<bool>) -> Result<Report> {
        Ok(self.relay.run(stop(stopped)).await?.into())
    }
}
