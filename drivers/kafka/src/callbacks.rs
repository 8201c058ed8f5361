//! What the client calls back on: always on the consumer's own thread.
//!
//! A rebalance is carried out here. When partitions are to go, the subscription is told, and the
//! thread waits until it has let go of them; then what was settled is committed, and the group may
//! have them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Statistics, TopicPartitionList};

use crate::context::ClientEvents;
use crate::metrics::Gauges;
use crate::shared::{Event, Shared};
use crate::start::pin_assigned;

/// How long positions may be on their way.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the client calls back on: always on the consumer's own thread.
pub(crate) struct Callbacks {
    client: ClientEvents,
    pub(crate) shared: Arc<Shared>,
    gauges: Gauges,
    /// Since when positions are on their way to the coordinator: the next go when these have come.
    committing: Mutex<Option<Instant>>,
    /// Where partitions begin that have no position, which can be committed only once they are assigned.
    begin: OnceLock<TopicPartitionList>,
    /// The consumer itself. It is gone while it is dropped, when it revokes all it holds.
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
}

impl Callbacks {
    pub(crate) fn new(client: ClientEvents, shared: Arc<Shared>) -> Self {
        Self {
            client,
            gauges: Gauges::new(&shared),
            shared,
            committing: Mutex::default(),
            begin: OnceLock::new(),
            consumer: OnceLock::new(),
        }
    }

    /// Has where partitions begin committed when they are assigned.
    pub(crate) fn pin_when_assigned(&self, begin: TopicPartitionList) {
        let _ = self.begin.set(begin); // once, before the group is joined
    }

    /// The consumer these are the callbacks of.
    pub(crate) fn tie(&self, consumer: &Arc<BaseConsumer<Self>>) {
        let _ = self.consumer.set(Arc::downgrade(consumer)); // once, before it is served
    }

    /// Nothing is held any more.
    pub(crate) fn forget_gauges(&self) {
        let held: Vec<u32> = self.shared.lock().held.keys().copied().collect();
        self.gauges.forget(&held);
    }

    fn consumer(&self) -> Option<Arc<BaseConsumer<Self>>> {
        self.consumer.get().and_then(Weak::upgrade)
    }

    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> KafkaResult<()> {
        // What was on its way was of another generation of the group.
        self.set_committing(None);
        if let Some(begin) = self.begin.get() {
            if let Err(error) = pin_assigned(consumer, begin, list, COMMIT_TIMEOUT) {
                self.shared
                    .fail("the start of a group could not be committed", &error);
            }
            self.shared.joined();
        }
        // The queues are split before there is anything to put into them.
        if let Some(consumer) = self.consumer() {
            self.shared.assign(&consumer, &numbers(list));
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.assign(list),
        }
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let numbers = numbers(list);
        if consumer.assignment_lost() {
            let gone = self.shared.forget(&numbers);
            tracing::warn!(stream = %self.shared.stream, ?gone, "partitions went to another member");
            if !gone.is_empty() {
                let mut state = self.shared.lock();
                self.shared.tell(&mut state, Event::Lost(gone));
            }
        } else {
            self.shared.release(self.shared.held(&numbers));
            self.commit(consumer, Some(&numbers), CommitMode::Sync);
            self.shared.forget(&numbers);
        }
        self.gauges.forget(&numbers);
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.unassign(),
        }
    }

    fn set_committing(&self, since: Option<Instant>) {
        *self
            .committing
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Whether positions are on their way. The client leaves out the answer when the member is given
    /// up meanwhile; then they are sent again.
    pub(crate) fn is_committing(&self) -> bool {
        let mut committing = self
            .committing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *committing {
            Some(since) if since.elapsed() < COMMIT_TIMEOUT => true,
            Some(_) => {
                *committing = None;
                self.shared.lock().commits.unanswered();
                false
            }
            None => false,
        }
    }

    /// Commits what was settled since the last time.
    pub(crate) fn commit(
        &self,
        consumer: &BaseConsumer<Self>,
        only: Option<&[u32]>,
        _: CommitMode,
    ) {
        if self.shared.plan.group.is_none() {
            return;
        }
        let list = self
            .shared
            .lock()
            .commits
            .take(self.shared.stream.as_str(), only);
        let Some(list) = list else { return };
        // Not under the lock: it waits for the broker. Of a commit that is not waited for, the client
        // never tells what became of it.
        let result = consumer.commit(&list, CommitMode::Sync);
        self.commit_callback(result, &list);
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<u32> {
    let elements = list.elements();
    let numbers = elements.iter().map(|e| u32::try_from(e.partition()));
    numbers.filter_map(Result::ok).collect()
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.client.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.gauges.update(&self.shared, &statistics);
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.client.token()
    }
}

impl ConsumerContext for Callbacks {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.revoked(consumer, list),
        };
        if let Err(source) = result {
            self.shared.fail("a rebalance failed", &source);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        self.set_committing(None);
        let Err(error) = result else { return };
        tracing::warn!(
            stream = %self.shared.stream, %error,
            "committing positions failed; they are committed again with the next"
        );
        self.shared.lock().commits.failed(list);
    }
}
