//! Batches to queues.

use std::sync::Arc;

use aws_sdk_sqs::types::{
    MessageAttributeValue, SendMessageBatchRequestEntry, SendMessageBatchResultEntry,
};
use streams_core::{Capabilities, Message, Result, StreamName};
use tokio::sync::Semaphore;

use crate::batches::{Done, Item, done};
use crate::error::Problem;
use crate::limits::Limits;
use crate::message::{Encoded, Wire, encode};
use crate::names::Place;
use crate::sqs::Inner;
use crate::writer::{Post, incomplete};

impl Post for Inner {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    fn sending(&self) -> &Semaphore {
        &self.sending
    }

    fn creates(&self) -> bool {
        self.config.create_queues.is_some()
    }

    async fn place(&self, stream: &StreamName) -> Result<Arc<Place>, Problem> {
        self.queues.of(stream).await
    }

    fn forget(&self, stream: &StreamName) {
        self.queues.forget(stream);
    }

    fn encode(&self, message: &Message) -> Result<Encoded> {
        encode(message, &Wire::SQS)
    }

    async fn post(&self, place: &Place, batch: &[Item]) -> Result<Vec<Done>, Problem> {
        let mut request = self.client.send_message_batch().queue_url(&place.address);
        for (at, item) in batch.iter().enumerate() {
            request = request.entries(entry(at, item)?);
        }
        let sent = request.send().await?;
        let confirmed = sent
            .successful()
            .iter()
            .map(SendMessageBatchResultEntry::id);
        Ok(done(batch.len(), confirmed, failed(sent.failed())))
    }
}

/// The entries of a request that failed.
pub(crate) fn failed(
    entries: &[aws_sdk_sqs::types::BatchResultErrorEntry],
) -> impl Iterator<Item = (&str, Problem)> {
    entries.iter().map(|entry| (entry.id(), entry.into()))
}

fn entry(at: usize, item: &Item) -> Result<SendMessageBatchRequestEntry, Problem> {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(at.to_string())
        .message_body(&item.encoded.body);
    for (name, value) in &item.encoded.attributes {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value);
        entry = entry.message_attributes(name, value.build().map_err(incomplete)?);
    }
    if item.delay > 0 {
        entry = entry.delay_seconds(item.delay);
    }
    if let Some((group, deduplication)) = &item.fifo {
        entry = entry
            .message_group_id(group)
            .message_deduplication_id(deduplication);
    }
    entry.build().map_err(incomplete)
}
