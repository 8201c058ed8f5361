//! From a topic to a queue: the topic, the queue, the policy that lets the topic send to it, and the
//! subscription.

use std::sync::Arc;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use streams_core::{DEAD_LETTER_SUFFIX, Error, ErrorKind, IntoStreamName, Result, StreamName};

use super::topics::no_answer;
use super::{DRIVER, Inner, Sns};
use crate::NewQueues;
use crate::error::Problem;
use crate::names::{Place, group_queue, queue_name};

/// A subscription of a queue to a topic, that is to be created.
///
/// ```
/// use streams_amazon::NewSubscription;
///
/// let settings = NewSubscription::new()
///     .group("mailer")
///     .filter_policy(r#"{"tenant": ["acme"]}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "settings do nothing until the driver is given them"]
pub struct NewSubscription {
    group: Option<String>,
    filter_policy: Option<String>,
    queues: NewQueues,
}

impl NewSubscription {
    /// Of the queue that is read without a group, to all messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the group whose queue it is.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets which messages the queue gets, as JSON in the form of SNS: names of headers, and what
    /// values they may have.
    pub fn filter_policy(mut self, json: impl Into<String>) -> Self {
        self.filter_policy = Some(json.into());
        self
    }

    /// Sets how the queue is created, if it is missing.
    pub fn queues(mut self, settings: NewQueues) -> Self {
        self.queues = settings;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        self.queues.check()?;
        let Some(policy) = &self.filter_policy else {
            return Ok(());
        };
        match serde_json::from_str(policy) {
            Ok(Value::Object(_)) => Ok(()),
            _ => Err(Error::invalid_config(
                "the filter policy is no JSON object; write it as {\"header\": [\"value\"]}",
            )
            .driver(DRIVER)),
        }
    }
}

impl Sns {
    /// Creates what is missing between a stream's topic and a queue: the topic, the queue with its
    /// dead letters, the policy of the queue, and the subscription, with raw delivery. What is there
    /// keeps its settings.
    ///
    /// AWS may take a minute until it follows a new policy. Messages that are written before are lost
    /// to the queue, so do this before the first is.
    ///
    /// # Errors
    /// - [`InvalidMessage`](ErrorKind::InvalidMessage) and
    ///   [`InvalidConfig`](ErrorKind::InvalidConfig) for names that cannot be, and settings that AWS
    ///   refuses.
    /// - [`Conflict`](ErrorKind::Conflict) when the queue is subscribed with another filter policy.
    /// - [`Permission`](ErrorKind::Permission) and [`Unavailable`](ErrorKind::Unavailable) as AWS
    ///   answers.
    ///
    /// ```no_run
    /// # use streams_amazon::{NewSubscription, Sns};
    /// # async fn create(sns: Sns) -> streams_core::Result<()> {
    /// let mailer = NewSubscription::new().group("mailer");
    /// sns.create_subscription("user.created", &mailer).await?;
    /// # Ok(()) }
    /// ```
    pub async fn create_subscription(
        &self,
        stream: impl IntoStreamName,
        settings: &NewSubscription,
    ) -> Result<()> {
        let stream = stream.into_stream_name()?;
        settings.check()?;
        let created = self.inner.chain(&stream, settings).await;
        created.map(drop).map_err(|problem| {
            let error = problem.error("create_subscription").driver(DRIVER);
            error.with("stream", &stream)
        })
    }

    /// Deletes the queue of a stream's group, or the one without a group, with all its messages;
    /// `false` says that there was none. Its subscription goes with the topic, or is deleted by SNS
    /// sooner or later.
    ///
    /// # Errors
    /// As [`create_subscription`](Sns::create_subscription).
    pub async fn delete_queue(
        &self,
        stream: impl IntoStreamName,
        group: Option<&str>,
    ) -> Result<bool> {
        let stream = stream.into_stream_name()?;
        let deleted = match self.inner.queue_name(&stream, group) {
            Ok(name) => self.inner.sqs.inner.queues.delete_named(&name).await,
            Err(problem) => Err(problem),
        };
        deleted.map_err(|problem| {
            let error = problem.error("delete_queue").driver(DRIVER);
            error.with("stream", &stream)
        })
    }
}

impl Inner {
    /// The name of the queue that a group reads a stream from, or those without one.
    pub(super) fn queue_name(
        &self,
        stream: &StreamName,
        group: Option<&str>,
    ) -> Result<String, Problem> {
        match group {
            Some(group) => {
                let topic = crate::names::topic_name(stream, self.config.fifo)?;
                group_queue(&topic, group)
            }
            None => queue_name(stream, self.config.fifo),
        }
    }

    /// SNS drops what is published to a topic that nobody is subscribed to. So that no dead letter is
    /// lost, the topic of dead letters gets a queue before it gets a message.
    pub(super) async fn keep_dead_letters(&self, stream: &StreamName) -> Result<(), Problem> {
        let queues = &self.sqs.inner.config.create_queues;
        let Some(settings) = queues else {
            return Ok(());
        };
        if !stream.as_str().ends_with(DEAD_LETTER_SUFFIX) || self.topics.knows(stream) {
            return Ok(());
        }
        let settings = NewSubscription::new().queues(settings.clone());
        self.chain(stream, &settings).await.map(drop)
    }

    /// Creates what is missing; the queue.
    pub(super) async fn chain(
        &self,
        stream: &StreamName,
        settings: &NewSubscription,
    ) -> Result<Arc<Place>, Problem> {
        let queues = &self.sqs.inner.queues;
        let name = self.queue_name(stream, settings.group.as_deref())?;
        let queue = queues.named(&name, Some(&settings.queues)).await?;
        let topic = self.topics.create(stream).await?;
        let queue_arn = self.allow(&queue, &topic).await?;
        let mut request = self
            .client
            .subscribe()
            .topic_arn(&topic.address)
            .protocol("sqs")
            .endpoint(queue_arn)
            .attributes("RawMessageDelivery", "true");
        if let Some(policy) = &settings.filter_policy {
            request = request.attributes("FilterPolicy", policy);
        }
        match request.send().await.map_err(Problem::from) {
            Ok(_) => Ok(queue),
            Err(problem) if problem.says("already exists") => match settings.filter_policy {
                None => Ok(queue),
                Some(_) => Err(Problem::new(
                    ErrorKind::Conflict,
                    "the queue is subscribed with another filter policy; change it at AWS, or delete \
                     the subscription",
                )),
            },
            Err(problem) => Err(problem),
        }
    }

    /// Lets the topic send to the queue; the queue's ARN.
    async fn allow(&self, queue: &Place, topic: &Place) -> Result<String, Problem> {
        let client = &self.sqs.inner.client;
        let request = client.get_queue_attributes().queue_url(&queue.address);
        let request = request.attribute_names(Name::QueueArn);
        let request = request.attribute_names(Name::Policy);
        let mut attributes = request.send().await?.attributes.unwrap_or_default();
        let arn = attributes.remove(&Name::QueueArn).ok_or_else(no_answer)?;
        let policy = attributes.remove(&Name::Policy).unwrap_or_default();
        if let Some(policy) = allowing(&policy, &topic.address, &arn) {
            let request = client.set_queue_attributes().queue_url(&queue.address);
            request.attributes(Name::Policy, policy).send().await?;
        }
        Ok(arn)
    }
}

/// A queue's policy that lets the topic send to it too; none if it does.
fn allowing(policy: &str, topic: &str, queue: &str) -> Option<String> {
    let hash = Sha256::digest(topic.as_bytes());
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("Streams{hex}");
    let mut policy = match serde_json::from_str(policy) {
        Ok(Value::Object(policy)) => policy,
        _ => serde_json::Map::new(),
    };
    policy.entry("Version").or_insert(json!("2012-10-17"));
    let statements = policy.entry("Statement").or_insert(json!([]));
    if !statements.is_array() {
        // AWS takes one that stands alone.
        *statements = json!([statements.take()]);
    }
    let statements = statements.as_array_mut()?;
    if statements.iter().any(|statement| statement["Sid"] == *id) {
        return None;
    }
    statements.push(json!({
        "Sid": id,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }));
    Some(Value::Object(policy).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_added_to_and_not_replaced() {
        let first = allowing("", "arn:topic", "arn:queue").unwrap();
        assert_eq!(allowing(&first, "arn:topic", "arn:queue"), None);
        let both = allowing(&first, "arn:other", "arn:queue").unwrap();
        let both: Value = serde_json::from_str(&both).unwrap();
        let sources: Vec<_> = both["Statement"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["Condition"]["ArnEquals"]["aws:SourceArn"].as_str())
            .collect();
        assert_eq!(sources, [Some("arn:topic"), Some("arn:other")]);
        let alone = r#"{"Version":"2008-10-17","Statement":{"Sid":"mine"}}"#;
        let added = allowing(alone, "arn:topic", "arn:queue").unwrap();
        let added: Value = serde_json::from_str(&added).unwrap();
        assert_eq!(added["Version"], "2008-10-17");
        assert_eq!(added["Statement"][0]["Sid"], "mine");
        assert_eq!(added["Statement"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_filter_policy_is_json() {
        let with = |policy: &str| NewSubscription::new().filter_policy(policy).check();
        assert!(with(r#"{"tenant":["acme"]}"#).is_ok());
        for bad in ["", "[]", "{tenant}"] {
            assert_eq!(with(bad).unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
    }
}
