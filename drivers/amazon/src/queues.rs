//! Queues: found by name, created where that is wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;
use streams_core::{Error, ErrorKind, Result, StreamName};

use crate::config::{Config, DRIVER};
use crate::error::Problem;
use crate::names::{Place, dead_letters, is_fifo, queue_name};

/// As long as SQS keeps messages: dead letters are there for somebody to look at.
const RETENTION_OF_DEAD_LETTERS: &str = "1209600";

/// Settings of queues that are created.
///
/// A queue gets one of dead letters, `<name>-dlq`, for messages that were received so often without
/// being acknowledged: the net for what kills its reader each time. What a handler fails on, the bus
/// itself writes there, with the reason.
///
/// ```
/// use streams_amazon::NewQueues;
///
/// let settings = NewQueues::new()
///     .max_receives(50)
///     .attribute("MessageRetentionPeriod", "1209600");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "settings do nothing until the driver is given them"]
pub struct NewQueues {
    max_receives: Option<u32>,
    attributes: BTreeMap<String, String>,
}

impl NewQueues {
    /// With dead letters after 20 receives, and otherwise as AWS does by itself.
    pub fn new() -> Self {
        Self {
            max_receives: Some(20),
            attributes: BTreeMap::new(),
        }
    }

    /// Sets after how many receives a message goes to the dead letters, 1 to 1000. Messages that are
    /// given back count as received too, so leave room above the attempts of the handlers.
    pub fn max_receives(mut self, receives: u32) -> Self {
        self.max_receives = Some(receives);
        self
    }

    /// Creates no queue of dead letters.
    pub fn without_dead_letters(mut self) -> Self {
        self.max_receives = None;
        self
    }

    /// Sets an attribute by the name that AWS gives it, such as `KmsMasterKeyId`.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bad = |message: &str| Err(Error::invalid_config(message).driver(DRIVER));
        if self.max_receives.is_some_and(|n| !(1..=1000).contains(&n)) {
            return bad("the receives before dead letters are out of range; use 1 to 1000");
        }
        if self.attributes.contains_key("FifoQueue")
            || self.attributes.contains_key("RedrivePolicy")
        {
            return bad(
                "the attributes `FifoQueue` and `RedrivePolicy` are set by the driver; use `fifo` \
                 and `max_receives`",
            );
        }
        Ok(())
    }
}

impl Default for NewQueues {
    fn default() -> Self {
        Self::new()
    }
}

/// The queues of streams; each is asked for once.
#[derive(Debug)]
pub(crate) struct Queues {
    client: Client,
    config: Arc<Config>,
    known: Mutex<HashMap<StreamName, Arc<Place>>>,
}

impl Queues {
    pub(crate) fn new(client: Client, config: Arc<Config>) -> Self {
        Self {
            client,
            config,
            known: Mutex::default(),
        }
    }

    /// The queue of a stream, created if it is missing and that is wanted. A name no queue can have is
    /// an error of the message's.
    pub(crate) async fn of(&self, stream: &StreamName) -> Result<Arc<Place>, Problem> {
        let known = self.lock().get(stream).cloned();
        if let Some(queue) = known {
            return Ok(queue);
        }
        let name = self.name(stream)?;
        let queue = self
            .named(&name, self.config.create_queues.as_ref())
            .await?;
        self.lock().insert(stream.clone(), queue.clone());
        Ok(queue)
    }

    /// The queue of this name, created if it is missing and there are settings for it.
    pub(crate) async fn named(
        &self,
        name: &str,
        settings: Option<&NewQueues>,
    ) -> Result<Arc<Place>, Problem> {
        let address = match (self.find(name).await, settings) {
            (Err(problem), Some(settings)) if problem.kind == ErrorKind::NotFound => {
                self.create_with_dead_letters(name, settings).await?.0
            }
            (found, _) => found?,
        };
        Ok(Arc::new(Place {
            address,
            is_fifo: is_fifo(name),
        }))
    }

    /// Asks for the queue anew next time.
    pub(crate) fn forget(&self, stream: &StreamName) {
        self.lock().remove(stream);
    }

    /// Creates a stream's queue; `false` says that there was one.
    pub(crate) async fn create(
        &self,
        stream: &StreamName,
        settings: &NewQueues,
    ) -> Result<bool, Problem> {
        let name = self.name(stream)?;
        match self.find(&name).await {
            Ok(_) => Ok(false),
            Err(problem) if problem.kind == ErrorKind::NotFound => {
                let created = self.create_with_dead_letters(&name, settings).await;
                created.map(|(_, is_new)| is_new)
            }
            Err(problem) => Err(problem),
        }
    }

    /// Deletes a stream's queue; `false` says that there was none.
    pub(crate) async fn delete(&self, stream: &StreamName) -> Result<bool, Problem> {
        let name = self.name(stream)?;
        self.forget(stream);
        self.delete_named(&name).await
    }

    /// Deletes the queue of this name; `false` says that there was none.
    pub(crate) async fn delete_named(&self, name: &str) -> Result<bool, Problem> {
        let url = match self.find(name).await {
            Err(problem) if problem.kind == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        self.client.delete_queue().queue_url(url).send().await?;
        Ok(true)
    }

    fn name(&self, stream: &StreamName) -> Result<String, Problem> {
        queue_name(stream, self.config.fifo)
    }

    /// The URL of the queue of this name.
    pub(crate) async fn find(&self, name: &str) -> Result<String, Problem> {
        let request = self.client.get_queue_url().queue_name(name);
        let owner = self.config.account_id.clone();
        let found = request.set_queue_owner_aws_account_id(owner).send().await?;
        found.queue_url.ok_or_else(no_answer)
    }

    /// Its URL, and whether it is new: somebody else may have been faster.
    async fn create_with_dead_letters(
        &self,
        name: &str,
        settings: &NewQueues,
    ) -> Result<(String, bool), Problem> {
        let mut attributes: HashMap<_, _> = settings
            .attributes
            .iter()
            .map(|(name, value)| (QueueAttributeName::from(name.as_str()), value.clone()))
            .collect();
        if let Some(receives) = settings.max_receives
            && let Some(dead_letters) = dead_letters(name)
        {
            let arn = self.dead_letters(&dead_letters).await?;
            let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": receives});
            attributes.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
        }
        self.create_queue(name, attributes).await
    }

    /// The ARN of a queue of dead letters, created if it is missing.
    async fn dead_letters(&self, name: &str) -> Result<String, Problem> {
        let retention = RETENTION_OF_DEAD_LETTERS.to_owned();
        let attributes = [(QueueAttributeName::MessageRetentionPeriod, retention)];
        let (url, _) = self.create_queue(name, attributes.into()).await?;
        let request = self.client.get_queue_attributes().queue_url(url);
        let request = request.attribute_names(QueueAttributeName::QueueArn);
        let arn = request.send().await?.attributes;
        let arn = arn.and_then(|mut all| all.remove(&QueueAttributeName::QueueArn));
        arn.ok_or_else(no_answer)
    }

    async fn create_queue(
        &self,
        name: &str,
        mut attributes: HashMap<QueueAttributeName, String>,
    ) -> Result<(String, bool), Problem> {
        if is_fifo(name) {
            attributes.insert(QueueAttributeName::FifoQueue, "true".to_owned());
        }
        let request = self.client.create_queue().queue_name(name);
        match request.set_attributes(Some(attributes)).send().await {
            Ok(created) => Ok((created.queue_url.ok_or_else(no_answer)?, true)),
            Err(error) => {
                let problem = Problem::from(error);
                match problem.kind {
                    // It is there with settings of its own, which it keeps.
                    ErrorKind::Conflict => Ok((self.find(name).await?, false)),
                    _ => Err(problem),
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<StreamName, Arc<Place>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_answer() -> Problem {
    Problem::new(
        ErrorKind::Other,
        "SQS answered without what it was asked for; see that the endpoint is one of SQS",
    )
}
