//! For tests of relays: a destination that remembers, and a relay in the background.

mod random;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{
    Capabilities, Error, ErrorKind, Message, Result, WriteError, Writer, async_trait,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::random::{seeds, stream_of};
use crate::RelayReport;

/// How long something may take on a busy machine before it is taken to have failed.
pub const LONG: Duration = Duration::from_secs(120);

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

type Rule = Arc<dyn Fn(&Message) -> Option<ErrorKind> + Send + Sync>;

/// A destination that remembers what was written, and fails as it is told to.
#[derive(Clone)]
pub struct Destination {
    /// Who writes.
    tag: usize,
    written: Arc<watch::Sender<Vec<Written>>>,
    rule: Arc<watch::Sender<Option<Rule>>>,
    /// Whether a write never ends, after it has written.
    pub hangs: Arc<watch::Sender<bool>>,
    /// The most messages of a write.
    pub largest: Arc<AtomicUsize>,
    refused: Arc<watch::Sender<usize>>,
    capabilities: Capabilities,
}

/// A message that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Who wrote.
    pub tag: usize,
    /// The message's id.
    pub id: String,
    /// Stream and key.
    pub lane: String,
    /// The data, or how many bytes it has if that is long or no text.
    pub data: String,
}

impl Default for Destination {
    fn default() -> Self {
        Self {
            tag: 0,
            written: Arc::default(),
            rule: Arc::new(watch::Sender::new(None)),
            hangs: Arc::default(),
            largest: Arc::default(),
            refused: Arc::default(),
            capabilities: Capabilities::none("test"),
        }
    }
}

impl Destination {
    /// One that takes everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, but it is known who has written.
    #[must_use]
    pub fn tagged(&self, tag: usize) -> Self {
        Self {
            tag,
            ..self.clone()
        }
    }

    /// Messages for which the rule has an error are not written.
    pub fn fail(&self, rule: impl Fn(&Message) -> Option<ErrorKind> + Send + Sync + 'static) {
        self.rule.send_replace(Some(Arc::new(rule)));
    }

    /// All messages are written again.
    pub fn heal(&self) {
        self.rule.send_replace(None);
    }

    /// All that was written, in order.
    #[must_use]
    pub fn written(&self) -> Vec<Written> {
        self.written.borrow().clone()
    }

    /// The data of all that was written, in order.
    #[must_use]
    pub fn data(&self) -> Vec<String> {
        self.written().into_iter().map(|w| w.data).collect()
    }

    /// Waits until what was written is as it should be.
    ///
    /// # Panics
    /// When that takes longer than [`LONG`], as with all that wait here.
    pub async fn until(&self, good: impl Fn(&[Written]) -> bool) {
        let mut written = self.written.subscribe();
        let done = timeout(LONG, written.wait_for(|written| good(written))).await;
        if done.is_err() {
            panic!("it never came to that: {:?}", self.data());
        }
    }

    /// Waits until so many messages were written.
    pub async fn until_count(&self, count: usize) {
        self.until(|written| written.len() >= count).await;
    }

    /// Waits until so many messages were refused.
    pub async fn until_refused(&self, count: usize) {
        let mut refused = self.refused.subscribe();
        let done = timeout(LONG, refused.wait_for(|refused| *refused >= count)).await;
        done.expect("so many are refused").unwrap();
    }

    /// What arrived first of each message, by stream and key, in order; and how many came again.
    #[must_use]
    pub fn first_arrivals(&self) -> (BTreeMap<String, Vec<String>>, usize) {
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

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("written", &self.written())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Writer for Destination {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        // A write takes a moment, and others get their turn.
        tokio::task::yield_now().await;
        self.largest.fetch_max(batch.len(), Ordering::Relaxed);
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

/// A relay that runs until it is stopped, or dropped as in a crash.
#[derive(Debug)]
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<RelayReport>>,
}

impl Running {
    /// Starts what runs until the future that it is given ends.
    pub fn start<F>(run: impl FnOnce(BoxFuture) -> F) -> Self
    where
        F: Future<Output = Result<RelayReport>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(Box::pin(async { stopped.await.unwrap_or(()) })));
        Self { stop, task }
    }

    /// Stops it, and waits for its end.
    ///
    /// # Panics
    /// If it has failed, or does not end.
    pub async fn stop(self) -> RelayReport {
        self.stop.send(()).expect("it runs");
        let done = timeout(LONG, self.task).await.expect("it stops");
        done.unwrap().unwrap()
    }

    /// Drops it in the middle, as a crash would.
    ///
    /// # Panics
    /// If it has ended before.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}
