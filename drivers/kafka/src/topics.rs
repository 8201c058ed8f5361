//! Which topics there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use streams_core::{Error, Result, StreamName};
use tokio::sync::{OnceCell, watch};

use crate::admin::{Admin, Problem};
use crate::config::{Config, DRIVER};

/// How topics are created.
///
/// ```
/// use streams_kafka::NewTopics;
///
/// let tables = NewTopics::new(12).replication(3).config("cleanup.policy", "compact");
/// # let _ = tables;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until it is given to the driver"]
pub struct NewTopics {
    pub(crate) partitions: i32,
    pub(crate) replication: Option<u8>,
    pub(crate) config: Vec<(String, String)>,
}

impl NewTopics {
    /// Topics of so many partitions. Their number can be raised later, but then keys move.
    pub fn new(partitions: u32) -> Self {
        Self {
            // Past the range it is refused by `check`.
            partitions: i32::try_from(partitions).unwrap_or(0),
            replication: None,
            config: Vec::new(),
        }
    }

    /// Sets on how many brokers each partition is kept; the default is the brokers' own.
    pub fn replication(mut self, brokers: u8) -> Self {
        self.replication = Some(brokers);
        self
    }

    /// Sets a setting of the topic, such as `retention.ms`; the default is the brokers' own.
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((name.into(), value.into()));
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let problem = if self.partitions < 1 {
            "a topic needs 1 partition or more, and fewer than 2^31"
        } else if self.replication == Some(0) {
            "a partition needs to be kept on 1 broker or more"
        } else if self
            .config
            .iter()
            .any(|(name, value)| name.is_empty() || name.contains('\0') || value.contains('\0'))
        {
            "a topic's setting has no name, or a null character"
        } else {
            return Ok(());
        };
        Err(Error::invalid_config(format!("{problem}; correct the `NewTopics`")).driver(DRIVER))
    }
}

/// A topic that is known to exist.
#[derive(Default)]
pub(crate) struct Topic {
    /// Its `max.message.bytes`, read when it is first written to.
    largest_batch: OnceCell<Option<usize>>,
}

/// The topics that are known to exist. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Topics(Arc<Shared>);

struct Shared {
    config: Arc<Config>,
    admin: Arc<Admin>,
    topics: Mutex<HashMap<StreamName, State>>,
}

enum State {
    Known(Arc<Topic>),
    /// Being asked for, once for all who want to know.
    Asked(watch::Receiver<Option<Result<Arc<Topic>, Problem>>>),
}

impl Topics {
    pub(crate) fn new(config: Arc<Config>, admin: Arc<Admin>) -> Self {
        Self(Arc::new(Shared {
            config,
            admin,
            topics: Mutex::default(),
        }))
    }

    /// Sees that a topic exists, or creates it where the driver is set to.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidMessage`] for a name that no topic can have.
    /// - [`ErrorKind::NotFound`] where it does not exist.
    /// - [`ErrorKind::Unavailable`] when no broker answers within the driver's `connect_timeout`.
    /// - [`ErrorKind::Permission`] as soon as the brokers refuse the client.
    pub(crate) async fn ensure(&self, topic: &StreamName) -> Result<()> {
        match self.topic(topic).await {
            Ok(_) => Ok(()),
            Err(problem) => Err(problem.error("subscribe").with("topic", topic)),
        }
    }

    /// As [`ensure`](Topics::ensure), with the largest batch the topic takes, in bytes, where it can
    /// be told.
    pub(crate) async fn largest_batch(&self, topic: &StreamName) -> Result<Option<usize>, Problem> {
        let found = self.topic(topic).await?;
        let read = || self.0.admin.largest_batch(topic);
        Ok(*found.largest_batch.get_or_init(read).await)
    }

    /// Asks for it anew next time.
    pub(crate) fn forget(&self, topic: &StreamName) {
        let mut topics = self.0.lock();
        if matches!(topics.get(topic), Some(State::Known(_))) {
            topics.remove(topic);
        }
    }

    async fn topic(&self, topic: &StreamName) -> Result<Arc<Topic>, Problem> {
        let mut asked = match self.0.lock().get(topic) {
            Some(State::Known(topic)) => return Ok(topic.clone()),
            Some(State::Asked(asked)) => Some(asked.clone()),
            None => None,
        };
        if asked.is_none() {
            if check_name(topic).is_err() {
                return Err(Problem::Name);
            }
            asked = Some(self.0.clone().ask(topic));
        }
        let answer = match &mut asked {
            Some(asked) => asked.wait_for(Option::is_some).await.ok(),
            None => None,
        };
        match answer.as_deref() {
            Some(Some(answer)) => answer.clone(),
            Some(None) | None => Err(Problem::Ended),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamName, State>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks in a task, so that nobody who gives up waiting takes it from the others.
    fn ask(
        self: Arc<Self>,
        topic: &StreamName,
    ) -> watch::Receiver<Option<Result<Arc<Topic>, Problem>>> {
        let (tell, asked) = watch::channel(None);
        {
            let mut topics = self.lock();
            if let Some(State::Asked(asked)) = topics.get(topic) {
                return asked.clone();
            }
            topics.insert(topic.clone(), State::Asked(asked.clone()));
        }
        let asking = Asking {
            shared: self.clone(),
            topic: topic.clone(),
        };
        tokio::spawn(async move {
            let answer = asking.shared.find(&asking.topic).await;
            let answer = answer.map(|()| Arc::new(Topic::default()));
            if let Ok(topic) = &answer {
                let known = State::Known(topic.clone());
                asking.shared.lock().insert(asking.topic.clone(), known);
            }
            drop(asking);
            tell.send_replace(Some(answer));
        });
        asked
    }

    async fn find(&self, topic: &StreamName) -> Result<(), Problem> {
        match (
            self.admin.partitions(topic).await,
            &self.config.create_topics,
        ) {
            (Err(Problem::Missing), Some(settings)) => {
                self.admin.create(topic, settings).await.map(|_| ())
            }
            (answer, _) => answer.map(|_| ()),
        }
    }
}

/// Ends the asking for a topic, also where the runtime drops the task.
struct Asking {
    shared: Arc<Shared>,
    topic: StreamName,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut topics = self.shared.lock();
        if matches!(topics.get(&self.topic), Some(State::Asked(_))) {
            topics.remove(&self.topic);
        }
    }
}

/// Refuses names that no topic can have.
pub(crate) fn check_name(topic: &StreamName) -> Result<()> {
    let name = topic.as_str();
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() <= 249 && name != "." && name != ".." && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(Problem::Name.error("check").with("topic", topic))
}

#[cfg(test)]
mod tests {
    use streams_core::ErrorKind;

    use super::*;

    #[test]
    fn topic_names_are_checked() {
        let longest = "a".repeat(249);
        for good in ["a", "user.created.dlq", "A_b-9", "...", &longest] {
            check_name(&StreamName::new(good).unwrap()).unwrap();
        }
        let too_long = "a".repeat(250);
        for bad in [".", "..", "a/b", "ä", "a:b", &too_long] {
            let error = check_name(&StreamName::new(bad).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{bad}");
        }
    }

    #[test]
    fn topic_settings_are_checked() {
        NewTopics::new(1)
            .replication(3)
            .config("a", "b")
            .check()
            .unwrap();
        for bad in [
            NewTopics::new(0),
            NewTopics::new(u32::MAX),
            NewTopics::new(1).replication(0),
            NewTopics::new(1).config("", "b"),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
