//! One request for messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{
    Message as Raw, MessageAttributeValue, MessageSystemAttributeName as System,
    SendMessageBatchRequestEntry, SendMessageBatchResultEntry,
};
use bytes::Bytes;
use streams_core::{Message, Metadata, StreamName, TokenId, from_unix_millis};
use tokio::time::Instant;

use crate::batches::{Done, done};
use crate::error::Problem;
use crate::message::{Received, decode, due};
use crate::names::Place;
use crate::options::Plan;
use crate::send::failed;
use crate::settle::Receipt;
use crate::sqs::Inner;
use crate::writer::{LONGEST_DELAY, incomplete, whole_seconds};

/// What of a message's lease is left aside, for SQS counts it from when it sends the answer.
const MARGIN: u32 = 20;

/// What is read, and how.
pub(crate) struct Poll {
    pub(crate) inner: Arc<Inner>,
    pub(crate) queue: Arc<Place>,
    pub(crate) stream: StreamName,
    pub(crate) plan: Plan,
}

/// A message that is this reader's for now.
pub(crate) struct Taken {
    pub(crate) message: Message,
    pub(crate) attempt: Option<u32>,
    pub(crate) receipt: Receipt,
    pub(crate) facts: Arc<Facts>,
}

impl Poll {
    /// Waits for messages; none if none comes.
    pub(crate) async fn receive(&self, most: usize) -> Result<Vec<Taken>, Problem> {
        let Self { inner, plan, .. } = self;
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(plan.wait + inner.config.request_timeout);
        let timeouts = aws_sdk_sqs::config::Builder::new().timeout_config(timeouts.build());
        let answer = inner
            .client
            .receive_message()
            .queue_url(&self.queue.address)
            .max_number_of_messages(i32::try_from(most).unwrap_or(i32::MAX))
            .wait_time_seconds(whole_seconds(plan.wait))
            .visibility_timeout(whole_seconds(plan.visibility_timeout))
            .message_attribute_names("All")
            .message_system_attribute_names(System::ApproximateReceiveCount)
            .message_system_attribute_names(System::ApproximateFirstReceiveTimestamp)
            .message_system_attribute_names(System::SentTimestamp)
            .message_system_attribute_names(System::MessageGroupId)
            .customize()
            .config_override(timeouts)
            .send()
            .await?;
        let since = Instant::now();
        let mut taken = Vec::with_capacity(most);
        let mut early = Vec::new();
        for raw in answer.messages.unwrap_or_default() {
            let timeout = plan.visibility_timeout;
            let receipt = Receipt {
                handle: raw.receipt_handle.clone().unwrap_or_default(),
                since,
                until: since + timeout - timeout / MARGIN,
            };
            match wait(&raw) {
                Some(wait) => early.push((raw, receipt, wait)),
                None => taken.extend(self.taken(raw, receipt)),
            }
        }
        if !early.is_empty() {
            self.put_off(early).await;
        }
        Ok(taken)
    }

    fn taken(&self, raw: Raw, receipt: Receipt) -> Option<Taken> {
        let count = system(&raw, &System::ApproximateReceiveCount);
        let attempt = count.and_then(|count| count.parse().ok());
        let facts = Facts {
            id: raw.message_id.clone().unwrap_or_default(),
            attributes_md5: raw.md5_of_message_attributes.clone(),
            handle: receipt.handle.clone(),
            body_md5: raw.md5_of_body.clone(),
        };
        let received = Received {
            id: facts.id.clone(),
            group: system(&raw, &System::MessageGroupId).map(str::to_owned),
            sent: time(&raw, &System::SentTimestamp),
            body: raw.body.unwrap_or_default(),
            attributes: attributes(raw.message_attributes),
        };
        match decode(&self.stream, received) {
            Ok(message) => Some(Taken {
                message,
                attempt,
                receipt,
                facts: Arc::new(facts),
            }),
            Err(error) => {
                // A server that gives messages no id is not SQS.
                tracing::error!(stream = %self.stream, %error, "a message cannot be read");
                None
            }
        }
    }

    /// Sends messages that are not due yet once more, with the next delay, and deletes what came.
    async fn put_off(&self, early: Vec<(Raw, Receipt, Duration)>) {
        let sent = match self.send_again(&early).await {
            Ok(done) => done,
            Err(problem) => vec![Err(problem); early.len()],
        };
        let mut receipts = Vec::with_capacity(early.len());
        for ((_, receipt, _), sent) in early.iter().zip(sent) {
            match sent {
                Ok(()) => receipts.push(receipt),
                Err(problem) => {
                    // Its lease runs out, and it comes again.
                    let error = problem.error("write_at");
                    tracing::warn!(stream = %self.stream, %error, "a delayed message cannot be put off");
                }
            }
        }
        self.inner.delete(&self.queue, receipts).await;
    }

    async fn send_again(&self, early: &[(Raw, Receipt, Duration)]) -> Result<Vec<Done>, Problem> {
        let mut request = self.inner.client.send_message_batch();
        for (at, (raw, _, wait)) in early.iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .set_message_body(raw.body.clone())
                .set_message_attributes(raw.message_attributes.clone())
                .delay_seconds(whole_seconds((*wait).min(LONGEST_DELAY)))
                .build();
            request = request.entries(entry.map_err(incomplete)?);
        }
        let sent = request.queue_url(&self.queue.address).send().await?;
        let confirmed = sent
            .successful()
            .iter()
            .map(SendMessageBatchResultEntry::id);
        Ok(done(early.len(), confirmed, failed(sent.failed())))
    }
}

/// How long until a message is due that says when. The clock is that of SQS, where it tells: a reader's
/// may be wrong.
fn wait(raw: &Raw) -> Option<Duration> {
    let attributes = raw.message_attributes.as_ref()?;
    let text = attributes.get(crate::message::DUE)?.string_value.clone()?;
    let due = due(&[(crate::message::DUE.to_owned(), text.into())].into())?;
    let is_first = system(raw, &System::ApproximateReceiveCount) == Some("1");
    let received = time(raw, &System::ApproximateFirstReceiveTimestamp);
    let now = received.filter(|_| is_first);
    let wait = due
        .duration_since(now.unwrap_or_else(SystemTime::now))
        .ok()?;
    (!wait.is_zero()).then_some(wait)
}

fn system<'a>(raw: &'a Raw, name: &System) -> Option<&'a str> {
    raw.attributes.as_ref()?.get(name).map(String::as_str)
}

fn time(raw: &Raw, name: &System) -> Option<SystemTime> {
    let millis = system(raw, name)?.parse().ok()?;
    Some(from_unix_millis(millis))
}

fn attributes(raw: Option<HashMap<String, MessageAttributeValue>>) -> crate::message::Attributes {
    let value = |(name, value): (String, MessageAttributeValue)| {
        let text = value.string_value.map(Bytes::from);
        let value = text.or_else(|| value.binary_value.map(|blob| blob.into_inner().into()))?;
        Some((name, value))
    };
    raw.into_iter().flatten().filter_map(value).collect()
}

/// What SQS says of a delivery.
#[derive(Debug)]
pub(crate) struct Facts {
    id: String,
    attributes_md5: Option<String>,
    handle: String,
    body_md5: Option<String>,
}

impl Metadata for Facts {
    fn names(&self) -> &'static [&'static str] {
        &[
            "sqs-message-id",
            "sqs-message-attributes-md5",
            "sqs-message-receipt-handle",
            "sqs-message-body-md5",
        ]
    }

    fn get(&self, name: &str, _: TokenId) -> Option<String> {
        match name {
            "sqs-message-id" => Some(self.id.clone()),
            "sqs-message-attributes-md5" => self.attributes_md5.clone(),
            "sqs-message-receipt-handle" => Some(self.handle.clone()),
            "sqs-message-body-md5" => self.body_md5.clone(),
            _ => None,
        }
    }
}
