//! Topics: named by their streams, created where that is wanted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_sns::Client;
use streams_core::{ErrorKind, StreamName};
use tokio::sync::OnceCell;

use super::config::Config;
use crate::error::Problem;
use crate::names::{Place, is_fifo, topic_name};

/// The topics of streams; each is asked for once.
#[derive(Debug)]
pub(crate) struct Topics {
    client: Client,
    fifo: bool,
    creates: bool,
    known: Mutex<HashMap<StreamName, Arc<Place>>>,
    /// What the ARNs of topics begin with.
    prefix: OnceCell<String>,
}

impl Topics {
    pub(super) fn new(client: Client, config: &Config) -> Self {
        let prefix = config.account_id.as_ref().map(|account| {
            let region = &config.region;
            format!("arn:{}:sns:{region}:{account}:", partition(region))
        });
        Self {
            client,
            fifo: config.fifo,
            creates: config.create_topics,
            known: Mutex::default(),
            prefix: OnceCell::new_with(prefix),
        }
    }

    /// The topic of a stream, created if that is wanted. Otherwise nobody looks whether there is one:
    /// that shows when it is written to.
    pub(crate) async fn of(&self, stream: &StreamName) -> Result<Arc<Place>, Problem> {
        let known = self.lock().get(stream).cloned();
        match known {
            Some(topic) => Ok(topic),
            None if self.creates => self.create(stream).await,
            None => {
                let name = topic_name(stream, self.fifo)?;
                let prefix = self.prefix.get_or_try_init(|| self.find_prefix()).await?;
                Ok(self.remember(stream, format!("{prefix}{name}")))
            }
        }
    }

    /// Creates a stream's topic, unless there is one.
    pub(crate) async fn create(&self, stream: &StreamName) -> Result<Arc<Place>, Problem> {
        let name = topic_name(stream, self.fifo)?;
        let mut request = self.client.create_topic().name(&name);
        if is_fifo(&name) {
            request = request.attributes("FifoTopic", "true");
        }
        let created = request.send().await?;
        let arn = created.topic_arn.ok_or_else(no_answer)?;
        Ok(self.remember(stream, arn))
    }

    pub(crate) async fn delete(&self, stream: &StreamName) -> Result<(), Problem> {
        let name = topic_name(stream, self.fifo)?;
        self.forget(stream);
        let prefix = self.prefix.get_or_try_init(|| self.find_prefix()).await?;
        let arn = format!("{prefix}{name}");
        self.client.delete_topic().topic_arn(arn).send().await?;
        Ok(())
    }

    /// Asks for the topic anew next time.
    pub(crate) fn forget(&self, stream: &StreamName) {
        self.lock().remove(stream);
    }

    #[cfg(feature = "sqs")]
    pub(super) fn knows(&self, stream: &StreamName) -> bool {
        self.lock().contains_key(stream)
    }

    /// The ARN of some topic, if there is one.
    pub(crate) async fn list(&self) -> Result<Option<String>, Problem> {
        let listed = self.client.list_topics().send().await?;
        let first = listed.topics().first();
        Ok(first.and_then(|topic| topic.topic_arn().map(str::to_owned)))
    }

    /// All topics of an account and a region begin alike.
    async fn find_prefix(&self) -> Result<String, Problem> {
        let arn = self.list().await?;
        let prefix = arn.as_deref().and_then(|arn| arn.rsplit_once(':'));
        match prefix {
            Some((prefix, _)) => Ok(format!("{prefix}:")),
            None => Err(Problem::new(
                ErrorKind::NotFound,
                "there is no topic; create it, or set `create_topics` on the driver",
            )),
        }
    }

    fn remember(&self, stream: &StreamName, arn: String) -> Arc<Place> {
        let topic = Arc::new(Place {
            is_fifo: is_fifo(&arn),
            address: arn,
        });
        self.lock().insert(stream.clone(), topic.clone());
        topic
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamName, Arc<Place>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of AWS that a region is in.
fn partition(region: &str) -> &'static str {
    match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

pub(super) fn no_answer() -> Problem {
    Problem::new(
        ErrorKind::Other,
        "AWS answered without what it was asked for; see that the endpoint is one of SNS and SQS",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_in_a_partition() {
        for (region, expected) in [
            ("eu-west-1", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
        ] {
            assert_eq!(partition(region), expected);
        }
    }
}
