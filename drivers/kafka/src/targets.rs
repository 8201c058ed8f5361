//! Which producer writes which topic.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use streams_core::StreamName;

use crate::admin::Problem;
use crate::blocking::blocking;
use crate::config::Config;
use crate::publisher::Publisher;
use crate::topics::Topics;

/// A batch of one record, whatever its size.
const ONE_RECORD: usize = 1;

/// Where a topic's messages go.
pub(crate) struct Target {
    pub(crate) publisher: Publisher,
    /// The largest batch the topic takes, in bytes, where that is known.
    pub(crate) limit: Option<usize>,
    /// The largest batch the producer makes, unless of one record.
    batch_size: usize,
}

impl Target {
    /// Whether a record of this size goes in a batch of its own, so that it is too large itself when
    /// that is refused.
    pub(crate) fn sends_alone(&self, bytes: usize) -> bool {
        bytes > self.batch_size
    }
}

/// The producers, and which topics they write.
///
/// The brokers refuse a batch as a whole, so that one that is larger than its topic takes fails the
/// messages in it that are not. One producer writes all topics that take its batches; topics that
/// take less have one with smaller batches, which they share with those that take about as much.
pub(crate) struct Targets {
    config: Arc<Config>,
    topics: Topics,
    publishers: tokio::sync::Mutex<BTreeMap<usize, Publisher>>,
    known: RwLock<HashMap<StreamName, Arc<Target>>>,
}

impl Targets {
    pub(crate) fn new(config: Arc<Config>, topics: Topics) -> Self {
        Self {
            config,
            topics,
            publishers: tokio::sync::Mutex::default(),
            known: RwLock::default(),
        }
    }

    /// Where a topic's messages go. Asks the brokers when it is first written.
    pub(crate) async fn of(&self, topic: &StreamName) -> Result<Arc<Target>, Problem> {
        if let Some(target) = self.known(topic) {
            return Ok(target);
        }
        let limit = self.topics.largest_batch(topic).await?;
        self.learn(topic, limit, self.batch_size_for(limit)).await
    }

    fn known(&self, topic: &StreamName) -> Option<Arc<Target>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(topic).cloned()
    }

    /// Where messages go whose batch the topic refused as too large: in smaller ones.
    pub(crate) async fn smaller(
        &self,
        topic: &StreamName,
        refused: &Target,
    ) -> Result<Arc<Target>, Problem> {
        self.forget(topic);
        let limit = self.topics.largest_batch(topic).await?;
        let batch_size = match self.batch_size_for(limit) {
            smaller if smaller < refused.batch_size => smaller,
            _ => ONE_RECORD,
        };
        self.learn(topic, limit, batch_size).await
    }

    fn batch_size_for(&self, limit: Option<usize>) -> usize {
        match limit {
            Some(limit) if limit < self.config.batch_size => {
                // Rounded down, so that few producers do for all.
                1 << limit.max(ONE_RECORD).ilog2()
            }
            _ => self.config.batch_size,
        }
    }

    async fn learn(
        &self,
        topic: &StreamName,
        limit: Option<usize>,
        batch_size: usize,
    ) -> Result<Arc<Target>, Problem> {
        let publisher = self.publisher(batch_size).await?;
        let target = Arc::new(Target {
            publisher,
            limit,
            batch_size,
        });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(topic.clone(), target.clone());
        Ok(target)
    }

    async fn publisher(&self, batch_size: usize) -> Result<Publisher, Problem> {
        let mut publishers = self.publishers.lock().await;
        if let Some(publisher) = publishers.get(&batch_size) {
            return Ok(publisher.clone());
        }
        let config = self.config.clone();
        let started = blocking(move || {
            let mut client = config.producer();
            client.set("batch.size", batch_size.to_string());
            Publisher::start(&config, &client)
        });
        let publisher = started.await?.map_err(Problem::Failed)?;
        publishers.insert(batch_size, publisher.clone());
        Ok(publisher)
    }

    /// Asks for the topic anew next time.
    pub(crate) fn forget(&self, topic: &StreamName) {
        self.topics.forget(topic);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(topic);
    }

    /// Starts another in its place next time: this one can do nothing more.
    pub(crate) async fn discard(&self, publisher: &Publisher) {
        let mut publishers = self.publishers.lock().await;
        publishers.retain(|_, other| !other.is_same(publisher));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, target| !target.publisher.is_same(publisher));
    }
}
