//! A destination that remembers, and relays to it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    Backoff, Capabilities, Error, ErrorKind, Message, Result, WriteError, Writer, async_trait,
};
use streams_dynamodb::{Mode, Outbox, Relay, RelayBuilder, RelayReport};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::LONG;

type Rule = Arc<dyn Fn(&Message) -> Option<ErrorKind> + Send + Sync>;

/// A destination that remembers what was written, and fails as it is told to.
#[derive(Clone)]
pub(crate) struct Destination {
    /// Who writes.
    tag: usize,
    written: Arc<watch::Sender<Vec<Written>>>,
    rule: Arc<watch::Sender<Option<Rule>>>,
    /// Whether a write never ends, after it has written.
    pub(crate) hangs: Arc<watch::Sender<bool>>,
    refused: Arc<watch::Sender<usize>>,
    capabilities: Capabilities,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) tag: usize,
    pub(crate) id: String,
    /// Stream and key.
    lane: String,
    pub(crate) data: String,
}

impl Destination {
    pub(crate) fn new() -> Self {
        Self {
            tag: 0,
            written: Arc::default(),
            rule: Arc::new(watch::Sender::new(None)),
            hangs: Arc::default(),
            refused: Arc::default(),
            capabilities: Capabilities::none("test"),
        }
    }

    /// The same, but it is known who has written.
    pub(crate) fn tagged(&self, tag: usize) -> Self {
        Self {
            tag,
            ..self.clone()
        }
    }

    /// Messages for which the rule has an error are not written.
    pub(crate) fn fail(
        &self,
        rule: impl Fn(&Message) -> Option<ErrorKind> + Send + Sync + 'static,
    ) {
        self.rule.send_replace(Some(Arc::new(rule)));
    }

    pub(crate) fn heal(&self) {
        self.rule.send_replace(None);
    }

    pub(crate) fn written(&self) -> Vec<Written> {
        self.written.borrow().clone()
    }

    /// The data of all that was written, in order.
    pub(crate) fn data(&self) -> Vec<String> {
        self.written().into_iter().map(|w| w.data).collect()
    }

    /// Waits until what was written is as it should be.
    pub(crate) async fn until(&self, good: impl Fn(&[Written]) -> bool) {
        let mut written = self.written.subscribe();
        let done = timeout(LONG, written.wait_for(|written| good(written))).await;
        if done.is_err() {
            panic!("it never came to that: {:?}", self.data());
        }
    }

    pub(crate) async fn until_count(&self, count: usize) {
        self.until(|written| written.len() >= count).await;
    }

    /// Waits until so many messages were refused.
    pub(crate) async fn until_refused(&self, count: usize) {
        let mut refused = self.refused.subscribe();
        let done = timeout(LONG, refused.wait_for(|refused| *refused >= count)).await;
        done.expect("so many are refused").unwrap();
    }

    /// What arrived first of each message, by stream and key, in order; and how many came again.
    pub(crate) fn first_arrivals(&self) -> (BTreeMap<String, Vec<String>>, usize) {
        let mut ids = HashSet::new();
        let mut lanes = BTreeMap::<_, Vec<_>>::new();
        let mut again = 0;
        for written in self.written() {
            if ids.insert(written.id) {
                lanes.entry(written.lane).or_default().push(written.data);
            } else {
                again += 1;
            }
        }
        (lanes, again)
    }
}

#[async_trait]
impl Writer for Destination {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        // A write takes a moment, and others get their turn.
        tokio::task::yield_now().await;
        let rule = self.rule.borrow().clone();
        let mut failures = Vec::new();
        let mut written = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            match rule.as_ref().and_then(|rule| rule(message)) {
                Some(kind) => failures.push((index, Error::new(kind, "as the test wants"))),
                None => written.push(Written {
                    tag: self.tag,
                    id: message.id().to_string(),
                    lane: format!(
                        "{}/{}",
                        message.stream(),
                        message.key().and_then(|key| key.as_str()).unwrap_or("-")
                    ),
                    data: match std::str::from_utf8(message.data()) {
                        Ok(text) if text.len() < 100 => text.to_owned(),
                        _ => format!("{} bytes", message.data().len()),
                    },
                }),
            }
        }
        self.written.send_modify(|all| all.extend(written));
        if *self.hangs.borrow() {
            std::future::pending::<()>().await;
        }
        if failures.is_empty() {
            return Ok(());
        }
        self.refused.send_modify(|count| *count += failures.len());
        Err(WriteError::new(failures))
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// A relay that is not patient.
pub(crate) fn relay(outbox: &Outbox, to: &Destination, mode: Mode) -> RelayBuilder {
    let quick = Backoff::new(Duration::from_millis(5), Duration::from_millis(50)).jitter(false);
    Relay::builder(outbox.clone(), Arc::new(to.clone()))
        .mode(mode)
        .lease(Duration::from_secs(3))
        .poll_interval(Duration::from_millis(5), Duration::from_millis(100))
        .row_backoff(quick)
        .destination_backoff(quick)
}

/// A relay that runs until it is stopped, or dropped as in a crash.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<RelayReport>>,
}

pub(crate) fn run(relay: RelayBuilder) -> Running {
    let relay = relay.build().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move { relay.run(async { stopped.await.unwrap_or(()) }).await });
    Running { stop, task }
}

impl Running {
    pub(crate) async fn stop(self) -> RelayReport {
        self.stop.send(()).expect("it runs");
        let done = timeout(LONG, self.task).await.expect("it stops");
        done.unwrap().unwrap()
    }

    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}
