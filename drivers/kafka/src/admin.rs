//! Asking the brokers, and creating and deleting topics.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client as NativeClient;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::Offset;
use streams_core::{Error, ErrorKind, StreamName};

use crate::blocking::{Ended, attempts, blocking};
use crate::client::Client;
use crate::config::{Config, DRIVER};
use crate::context::{ClientEvents, ClientFailure};
use crate::error::{code, error, is_passing, is_silence};
use crate::topics::NewTopics;

/// How long to wait for the settings of a topic, which can be done without.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the brokers about topics, and changes them.
pub(crate) struct Admin {
    config: Arc<Config>,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Apart from the other, for it tells neither errors nor logs.
    admin: OnceLock<AdminClient<ClientEvents>>,
}

struct Connection {
    events: ClientEvents,
    client: OnceLock<Client<ClientEvents>>,
}

/// Why the brokers did not do what was asked. It is told to all who wait for the same.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
    /// No topic can have this name.
    Name,
    /// There is no such topic.
    Missing,
    /// There is no such partition: the topic has so many.
    MissingPartition(usize),
    /// No broker answered in time.
    NoAnswer(Duration, Option<ClientFailure>),
    /// The brokers refuse the client.
    Refused(ClientFailure),
    /// The brokers refuse what was asked.
    Failed(KafkaError),
    /// The admin client cannot log in with tokens.
    NoTokens,
    /// The runtime shuts down.
    Ended,
}

impl From<Ended> for Problem {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

impl Problem {
    fn of(source: KafkaError) -> Self {
        match code(&source) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Self::Missing,
            _ => Self::Failed(source),
        }
    }

    pub(crate) fn error(&self, doing: &'static str) -> Error {
        let error = match self {
            Self::Name => Error::new(
                ErrorKind::InvalidMessage,
                "Kafka takes no topic of this name; use 1 to 249 letters, digits, `.`, `_` and `-`",
            ),
            Self::Missing => Error::new(
                ErrorKind::NotFound,
                "the topic does not exist; create it, or set `create_topics` on the driver",
            ),
            Self::MissingPartition(count) => Error::new(
                ErrorKind::NotFound,
                format!("the topic has no such partition: it has {count}, counted from 0"),
            ),
            Self::NoAnswer(after, failure) => {
                let error = Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "no broker answered within {after:?}; see that they are up and can be \
                         reached, or raise `connect_timeout`"
                    ),
                );
                match failure {
                    Some(failure) => error
                        .with("code", format_args!("{:?}", failure.code))
                        .with("reason", &failure.reason),
                    None => error,
                }
            }
            Self::Refused(failure) => return failure.error(doing),
            Self::Failed(source) => return error(source, doing),
            Self::NoTokens => Error::unsupported(
                DRIVER,
                "topics cannot be created or deleted by a client that logs in with OAUTHBEARER; \
                 create them with other credentials or by other means",
            ),
            Self::Ended => Ended.into(),
        };
        error.operation(doing).driver(DRIVER)
    }
}

impl Admin {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            connection: Mutex::default(),
            admin: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Arc<Connection> {
        let new = || {
            Arc::new(Connection {
                events: ClientEvents::new(&self.config),
                client: OnceLock::new(),
            })
        };
        let mut current = self.lock();
        // One that was refused since it was last used: another tells whether it still is.
        current.take_if(|one| {
            let failure = one.events.last_failure();
            failure.is_some_and(|failure| failure.is_authentication_failure())
        });
        current.get_or_insert_with(new).clone()
    }

    /// Asks on a thread that may block. It fails as soon as the brokers refuse the client.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl Fn(&NativeClient<ClientEvents>, Duration) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let connection = self.connection();
        let (this, used) = (self.clone(), connection.clone());
        let timeout = self.config.connect_timeout;
        let ask = move |left| {
            let client = used.client(&this.config)?;
            question(client.producer().client(), left)
        };
        let asking = attempts(timeout, ask, is_passing);
        let answer = tokio::select! {
            biased;
            answer = asking => answer?,
            failure = connection.events.refused() => {
                return Err(self.give_up(&connection, failure));
            }
        };
        let source = match answer {
            Ok(answer) => {
                connection.events.forget_failure();
                return Ok(answer);
            }
            Err(source) => source,
        };
        let silent = is_silence(&source);
        Err(match connection.events.last_failure() {
            // A handshake that fails may be a broker that goes down just then, but not for so long.
            Some(failure) if silent && failure.code == Code::SSL => {
                self.give_up(&connection, failure)
            }
            failure if silent => Problem::NoAnswer(timeout, failure),
            _ => Problem::of(source),
        })
    }

    /// Throws the connection away, so that the next tells what fails then.
    fn give_up(&self, connection: &Arc<Connection>, failure: ClientFailure) -> Problem {
        let mut current = self.lock();
        if current
            .as_ref()
            .is_some_and(|one| Arc::ptr_eq(one, connection))
        {
            *current = None;
        }
        Problem::Refused(failure)
    }

    /// Waits until the brokers have said which cluster they are.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(), Problem> {
        self.ask(|client, timeout| match client.fetch_cluster_id(timeout) {
            Some(_) => Ok(()),
            None => Err(KafkaError::MetadataFetch(Code::OperationTimedOut)),
        })
        .await
    }

    /// How many partitions a topic has.
    pub(crate) async fn partitions(self: &Arc<Self>, topic: &StreamName) -> Result<usize, Problem> {
        let topic = topic.clone();
        self.ask(move |client, timeout| {
            let metadata = client.fetch_metadata(Some(topic.as_str()), timeout)?;
            let found = metadata
                .topics()
                .iter()
                .find(|one| one.name() == topic.as_str());
            match found.map(|found| (found.error(), found.partitions().len())) {
                Some((None, partitions)) if partitions > 0 => Ok(partitions),
                Some((Some(code), _)) => Err(KafkaError::MetadataFetch(code.into())),
                _ => Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition)),
            }
        })
        .await
    }

    /// The offset of the oldest record kept, and that of the next to be written.
    pub(crate) async fn watermarks(
        self: &Arc<Self>,
        topic: &StreamName,
        partition: i32,
    ) -> Result<(i64, i64), Problem> {
        let partitions = self.partitions(topic).await?;
        if usize::try_from(partition).map_or(true, |partition| partition >= partitions) {
            return Err(Problem::MissingPartition(partitions));
        }
        let topic = topic.clone();
        self.ask(move |client, timeout| client.fetch_watermarks(topic.as_str(), partition, timeout))
            .await
    }

    /// What a group has committed of each partition.
    pub(crate) async fn committed(
        self: &Arc<Self>,
        group: &str,
        topic: &StreamName,
    ) -> Result<Vec<Option<i64>>, Problem> {
        let partitions = self.partitions(topic).await?;
        let (this, group, topic) = (self.clone(), group.to_owned(), topic.clone());
        let mut consumer: Option<BaseConsumer<ClientEvents>> = None;
        let ask = move |left| {
            let consumer = match &consumer {
                Some(consumer) => consumer,
                None => {
                    let events = ClientEvents::new(&this.config);
                    let config = this.config.consumer(&group);
                    consumer.insert(config.create_with_context(events)?)
                }
            };
            if this.config.security.needs_tokens() {
                // Serves the request for one.
                consumer.poll(Duration::from_millis(100));
            }
            let mut asked = TopicPartitionList::new();
            for partition in (0..).take(partitions) {
                asked.add_partition(topic.as_str(), partition);
            }
            let found = consumer.committed_offsets(asked, left)?;
            let mut offsets = vec![None; partitions];
            for element in found.elements() {
                element.error()?;
                let at = usize::try_from(element.partition()).ok();
                if let (Some(slot), Offset::Offset(offset)) =
                    (at.and_then(|at| offsets.get_mut(at)), element.offset())
                {
                    *slot = Some(offset);
                }
            }
            Ok(offsets)
        };
        let timeout = self.config.connect_timeout;
        match attempts(timeout, ask, is_passing).await? {
            Err(source) if is_silence(&source) => Err(Problem::NoAnswer(timeout, None)),
            answer => answer.map_err(Problem::of),
        }
    }

    /// Creates a topic; `false` says that it was there. It can be used when this returns.
    pub(crate) async fn create(
        self: &Arc<Self>,
        topic: &StreamName,
        settings: &NewTopics,
    ) -> Result<bool, Problem> {
        let replication = TopicReplication::Fixed(settings.replication.map_or(-1, i32::from));
        let new = NewTopic::new(topic.as_str(), settings.partitions, replication);
        let new = settings
            .config
            .iter()
            .fold(new, |new, (name, value)| new.set(name, value));
        let created = self
            .admin()
            .await?
            .create_topics([&new], &self.options())
            .await;
        let created = match first(created) {
            Ok(()) => true,
            Err(Problem::Failed(source)) if code(&source) == Some(Code::TopicAlreadyExists) => {
                false
            }
            Err(problem) => return Err(problem),
        };
        // Not every broker knows it yet.
        let known = async {
            let mut wait = Duration::from_millis(10);
            loop {
                match self.partitions(topic).await {
                    Err(Problem::Missing) => {}
                    Err(Problem::Failed(source))
                        if code(&source) == Some(Code::LeaderNotAvailable) => {}
                    other => return other.map(|_| ()),
                }
                tokio::time::sleep(wait).await;
                wait = (2 * wait).min(Duration::from_secs(1));
            }
        };
        match tokio::time::timeout(self.config.connect_timeout, known).await {
            Ok(known) => known.map(|()| created),
            Err(_) => Err(Problem::NoAnswer(self.config.connect_timeout, None)),
        }
    }

    /// Deletes a topic; `false` says that there was none.
    pub(crate) async fn delete(self: &Arc<Self>, topic: &StreamName) -> Result<bool, Problem> {
        match self.partitions(topic).await {
            Ok(_) => {}
            Err(Problem::Missing) => return Ok(false),
            Err(problem) => return Err(problem),
        }
        let deleted = self
            .admin()
            .await?
            .delete_topics(&[topic.as_str()], &self.options())
            .await;
        match first(deleted) {
            Ok(()) => Ok(true),
            Err(Problem::Missing) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// The largest batch a topic takes, in bytes; `None` where it cannot be told.
    pub(crate) async fn largest_batch(self: &Arc<Self>, topic: &StreamName) -> Option<usize> {
        let admin = self.admin().await.ok()?;
        let options = AdminOptions::new().request_timeout(Some(SETTINGS_TIMEOUT));
        let asked = [ResourceSpecifier::Topic(topic.as_str())];
        let described = admin.describe_configs(&asked, &options).await;
        let resources = match described {
            Ok(resources) => resources,
            Err(error) => {
                tracing::debug!(%topic, %error, "the topic's settings cannot be read");
                return None;
            }
        };
        let resource = match resources.into_iter().next()? {
            Ok(resource) => resource,
            Err(code) => {
                tracing::debug!(%topic, %code, "the topic's settings cannot be read");
                return None;
            }
        };
        let value = resource.get("max.message.bytes")?.value.as_deref()?;
        value.parse().ok()
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.config.connect_timeout))
            .operation_timeout(Some(self.config.connect_timeout))
    }

    /// The admin client, made when it is first needed.
    async fn admin(self: &Arc<Self>) -> Result<&AdminClient<ClientEvents>, Problem> {
        if self.config.security.needs_tokens() {
            return Err(Problem::NoTokens);
        }
        if let Some(admin) = self.admin.get() {
            return Ok(admin);
        }
        let mut config = self.config.admin();
        // Nobody takes its logs, so that they would gather; the other client tells the same.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let events = ClientEvents::new(&self.config);
        let made: KafkaResult<AdminClient<ClientEvents>> =
            blocking(move || config.create_with_context(events)).await?;
        let admin = made.map_err(Problem::Failed)?;
        Ok(self.admin.get_or_init(|| admin))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(admin) = self.admin.take() {
            // It waits for its thread. Where none can be started, this one waits.
            let _ = thread::Builder::new().spawn(move || drop(admin));
        }
    }
}

/// What came of the one topic that was asked for.
fn first(results: KafkaResult<Vec<Result<String, (String, Code)>>>) -> Result<(), Problem> {
    let results = results.map_err(Problem::of)?;
    match results.into_iter().next() {
        Some(Err((_, code))) => Err(Problem::of(KafkaError::AdminOp(code))),
        Some(Ok(_)) | None => Ok(()),
    }
}

impl Connection {
    /// The client, connected when it is first used.
    fn client(&self, config: &Config) -> KafkaResult<&Client<ClientEvents>> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::start(&config.admin(), self.events.clone())?;
        Ok(self.client.get_or_init(|| client))
    }
}

impl ProducerContext for ClientEvents {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl ConsumerContext for ClientEvents {}
