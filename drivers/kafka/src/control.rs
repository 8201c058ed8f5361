//! A handle on a running subscription.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use streams_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::config::DRIVER;
use crate::shared::Shared;

/// A handle on a running subscription, tied to it by
/// [`KafkaOptions::control`](crate::KafkaOptions::control): to seek, to pause, and to ask where it
/// is. Cheap to clone.
///
/// ```no_run
/// # async fn example(bus: streams_core::Bus<streams_kafka::Kafka>) -> streams_core::Result<()> {
/// use streams_kafka::{KafkaControl, KafkaOptions, SeekTo};
///
/// let control = KafkaControl::new();
/// bus.subscribe_stream("orders", |message, _| async move { println!("{:?}", message.id()) })
///     .group("replayer")
///     .option(KafkaOptions::new().control(&control))
///     .register()?;
/// bus.start().await?;
/// for partition in control.partitions() {
///     control.seek(partition, SeekTo::Beginning).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct KafkaControl(Arc<Mutex<Weak<Shared>>>);

/// Where to go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// At the oldest message kept.
    Beginning,
    /// With the next message written.
    End,
    /// At this offset.
    Offset(u64),
}

/// Where a subscription is in a partition it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The partition.
    pub partition: u32,
    /// The next offset to be delivered; none before the first delivery.
    pub delivered: Option<u64>,
    /// Everything before this offset is acknowledged; none before the first acknowledgement of this
    /// assignment.
    pub acknowledged: Option<u64>,
    /// Where the partition ends, brought up to date with the statistics; none before that.
    pub high_watermark: Option<u64>,
}

impl Progress {
    /// How many offsets behind the end it is, as far as is known.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let done = self.acknowledged.or(self.delivered)?;
        Some(self.high_watermark?.saturating_sub(done))
    }
}

/// What the consumer's thread is asked to do.
pub(crate) enum Command {
    Seek {
        partition: u32,
        to: SeekTo,
        done: oneshot::Sender<Result<()>>,
    },
    Pause {
        partitions: Vec<u32>,
        done: oneshot::Sender<Result<()>>,
    },
    Resume {
        partitions: Vec<u32>,
        done: oneshot::Sender<Result<()>>,
    },
}

impl KafkaControl {
    /// A handle that is not tied to a subscription yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The partitions held now.
    #[must_use]
    pub fn partitions(&self) -> Vec<u32> {
        self.progress().iter().map(|p| p.partition).collect()
    }

    /// Where the subscription is in each partition it holds, in their order.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        let Ok(shared) = self.shared() else {
            return Vec::new();
        };
        let state = shared.lock();
        let known = |offset: i64| u64::try_from(offset).ok();
        let progress = state.held.iter().map(|(partition, held)| Progress {
            partition: *partition,
            delivered: known(held.delivered.load(Ordering::Relaxed)),
            acknowledged: state.commits.settled(*partition).and_then(known),
            high_watermark: known(held.facts.high_watermark.load(Ordering::Relaxed)),
        });
        let mut progress: Vec<_> = progress.collect();
        progress.sort_unstable_by_key(|p| p.partition);
        progress
    }

    /// Goes on reading a partition elsewhere. Running handlers of the partition end first, within
    /// the time they have when a partition is revoked; what was fetched and not begun is dropped.
    /// When it returns, the next message of the partition comes from there.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a partition the subscription does not hold,
    /// [`Closed`](ErrorKind::Closed) when the subscription is not running,
    /// [`Unavailable`](ErrorKind::Unavailable) when the broker does not answer.
    pub async fn seek(&self, partition: u32, to: SeekTo) -> Result<()> {
        self.ask(|done| Command::Seek {
            partition,
            to,
            done,
        })
        .await
    }

    /// Fetches no more of these partitions until [`resume`](KafkaControl::resume). What was
    /// delivered is handled. A partition that goes and comes back is not paused any more.
    ///
    /// # Errors
    /// As [`seek`](KafkaControl::seek).
    pub async fn pause(&self, partitions: impl IntoIterator<Item = u32>) -> Result<()> {
        let partitions = partitions.into_iter().collect();
        self.ask(|done| Command::Pause { partitions, done }).await
    }

    /// Fetches these partitions again.
    ///
    /// # Errors
    /// As [`seek`](KafkaControl::seek).
    pub async fn resume(&self, partitions: impl IntoIterator<Item = u32>) -> Result<()> {
        let partitions = partitions.into_iter().collect();
        self.ask(|done| Command::Resume { partitions, done }).await
    }

    pub(crate) fn tie(&self, shared: &Arc<Shared>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(shared);
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command,
    ) -> Result<()> {
        let shared = self.shared()?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = shared.lock();
            if state.closing {
                return Err(not_running());
            }
            state.commands.push_back(command(done));
        }
        drop(shared);
        answer.await.unwrap_or_else(|_| Err(not_running()))
    }

    fn shared(&self) -> Result<Arc<Shared>> {
        let tied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tied.upgrade().ok_or_else(not_running)
    }
}

fn not_running() -> Error {
    Error::new(
        ErrorKind::Closed,
        "no subscription with this control is running; give it one with `KafkaOptions::control` and \
         start the bus",
    )
    .driver(DRIVER)
}

impl fmt::Debug for KafkaControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaControl")
            .field("partitions", &self.partitions())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::not_held;

    #[tokio::test]
    async fn a_control_without_a_subscription_says_so() {
        let control = KafkaControl::new();
        assert!(control.partitions().is_empty());
        let error = control.seek(0, SeekTo::Beginning).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(not_held(3).kind(), ErrorKind::NotFound);
    }

    #[test]
    fn lag_is_what_is_not_acknowledged() {
        let mut progress = Progress {
            partition: 0,
            delivered: Some(15),
            acknowledged: None,
            high_watermark: Some(20),
        };
        assert_eq!(progress.lag(), Some(5));
        progress.acknowledged = Some(12);
        assert_eq!(progress.lag(), Some(8));
    }
}
