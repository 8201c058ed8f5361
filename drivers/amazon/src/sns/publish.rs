//! Batches to topics.
//!
//! | message | SNS |
//! | --- | --- |
//! | data | message; up to 6 KiB as `MessageStructure: json`, the same under each protocol |
//! | key | subject, where it can be one, beside the attribute |
//! | the rest | attributes, as through SQS, but for the time, which is as in RFC 3339 |

use std::sync::Arc;

use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use serde_json::{Map, Value};
use streams_core::{Capabilities, Message, Result, StreamName};
use tokio::sync::Semaphore;

use super::Inner;
use crate::batches::{Done, Item, done};
use crate::error::Problem;
use crate::limits::Limits;
use crate::message::{Encoded, encode};
use crate::names::Place;
use crate::text::sendable_json;
use crate::writer::{Post, incomplete};

/// The keys that the Go services write.
const PROTOCOLS: [&str; 6] = ["default", "email", "email-json", "http", "https", "sqs"];
/// The most bytes of a body under all of them: ten such messages are one request of 64 KiB, the unit
/// that SNS bills. A larger body is sent once. Subscribers get the same either way.
const LARGEST_STRUCTURED: usize = 6 << 10;
/// The longest subject.
const LONGEST_SUBJECT: usize = 100;

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
        self.config.create_topics
    }

    async fn place(&self, stream: &StreamName) -> Result<Arc<Place>, Problem> {
        #[cfg(feature = "sqs")]
        self.keep_dead_letters(stream).await?;
        self.topics.of(stream).await
    }

    fn forget(&self, stream: &StreamName) {
        self.topics.forget(stream);
    }

    fn encode(&self, message: &Message) -> Result<Encoded> {
        let mut encoded = encode(message, &self.config.wire)?;
        let key = message.key().and_then(|key| key.as_str());
        encoded.subject = key.filter(|key| is_subject(key)).map(str::to_owned);
        if let Some(structured) = structured(&encoded.body) {
            encoded.body = structured;
            encoded.is_structured = true;
        }
        Ok(encoded)
    }

    async fn post(&self, place: &Place, batch: &[Item]) -> Result<Vec<Done>, Problem> {
        let mut request = self.client.publish_batch().topic_arn(&place.address);
        for (at, item) in batch.iter().enumerate() {
            request = request.publish_batch_request_entries(entry(at, item)?);
        }
        let sent = request.send().await?;
        let confirmed = sent.successful().iter().filter_map(|entry| entry.id());
        let failed = sent.failed().iter().map(|entry| (entry.id(), entry.into()));
        Ok(done(batch.len(), confirmed, failed))
    }
}

fn entry(at: usize, item: &Item) -> Result<PublishBatchRequestEntry, Problem> {
    let encoded = &item.encoded;
    let structure = encoded.is_structured.then(|| "json".to_owned());
    let mut entry = PublishBatchRequestEntry::builder()
        .id(at.to_string())
        .message(&encoded.body)
        .set_message_structure(structure)
        .set_subject(encoded.subject.clone());
    for (name, value) in &encoded.attributes {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value);
        entry = entry.message_attributes(name, value.build().map_err(incomplete)?);
    }
    if let Some((group, deduplication)) = &item.fifo {
        entry = entry
            .message_group_id(group)
            .message_deduplication_id(deduplication);
    }
    entry.build().map_err(incomplete)
}

/// The body under each protocol, unless that is large.
fn structured(body: &str) -> Option<String> {
    if PROTOCOLS.len() * body.len() > LARGEST_STRUCTURED {
        return None;
    }
    let same = |protocol: &str| (protocol.to_owned(), Value::from(body));
    let all: Map<_, _> = PROTOCOLS.into_iter().map(same).collect();
    let json = sendable_json(Value::Object(all).to_string());
    (json.len() <= LARGEST_STRUCTURED).then_some(json)
}

/// Whether a message can have this subject: text in ASCII that begins with more than a space.
fn is_subject(key: &str) -> bool {
    let graphic = |byte: u8| byte.is_ascii_graphic();
    key.len() < LONGEST_SUBJECT
        && key.bytes().next().is_some_and(graphic)
        && key.bytes().all(|byte| byte == b' ' || graphic(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_stand_under_each_protocol() {
        let json: Value = serde_json::from_str(&structured("a \"b\"").unwrap()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 6);
        for protocol in PROTOCOLS {
            assert_eq!(json[protocol], "a \"b\"");
        }
        assert!(structured(&"x".repeat(1024)).is_none());
        assert!(structured(&"\"".repeat(600)).is_none(), "it grows");
    }

    #[test]
    fn subjects_are_what_sns_documents() {
        for good in ["user-17", "a b", "!", &"x".repeat(99)] {
            assert!(is_subject(good), "{good:?}");
        }
        for bad in ["", " a", "a\nb", "é", &"x".repeat(100)] {
            assert!(!is_subject(bad), "{bad:?}");
        }
    }
}
