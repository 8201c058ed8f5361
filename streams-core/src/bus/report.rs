//! What a run did, and what it is doing.

use std::fmt;
use std::iter::Sum;

use crate::StreamName;

/// What became of a subscription's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionReport {
    /// The stream.
    pub stream: StreamName,
    /// The group.
    pub group: Option<String>,
    /// Messages handled and acknowledged, over the whole run.
    pub acknowledged: u64,
    /// Attempts that failed and were put off to be tried again, over the whole run.
    pub retried: u64,
    /// Messages written to the dead letters, over the whole run.
    pub dead_lettered: u64,
    /// Messages whose lease or partition was lost while they were here, over the whole run. They
    /// are delivered again.
    pub lost: u64,
    /// In flight when the shutdown began.
    pub in_flight_at_shutdown: u64,
    /// Of those: finished during the shutdown.
    pub finished: u64,
    /// Of those: failed and given back, to be tried again.
    pub given_back_to_retry: u64,
    /// Of those: never started and given back.
    pub released: u64,
    /// Of those: still running at the deadline, or lost; not acknowledged.
    pub abandoned: u64,
}

impl SubscriptionReport {
    pub(crate) fn new(stream: StreamName, group: Option<String>) -> Self {
        Self {
            stream,
            group,
            acknowledged: 0,
            retried: 0,
            dead_lettered: 0,
            lost: 0,
            in_flight_at_shutdown: 0,
            finished: 0,
            given_back_to_retry: 0,
            released: 0,
            abandoned: 0,
        }
    }
}

impl fmt::Display for SubscriptionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stream)?;
        if let Some(group) = &self.group {
            write!(f, " ({group})")?;
        }
        write!(
            f,
            ": {} acknowledged, {} retried, {} dead-lettered; at shutdown {} in flight: {} finished, \
             {} to be retried, {} released, {} abandoned",
            self.acknowledged,
            self.retried,
            self.dead_lettered,
            self.in_flight_at_shutdown,
            self.finished,
            self.given_back_to_retry,
            self.released,
            self.abandoned,
        )
    }
}

/// What a run did, subscription by subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// One for each subscription, in the order they were opened.
    pub subscriptions: Vec<SubscriptionReport>,
    /// Why closing the writer failed, if it did.
    pub writer_error: Option<String>,
}

impl RunReport {
    fn sum(&self, count: impl Fn(&SubscriptionReport) -> u64) -> u64 {
        self.subscriptions.iter().map(count).sum()
    }

    /// Messages acknowledged, over all subscriptions.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.sum(|s| s.acknowledged)
    }

    /// Messages abandoned at the deadline, over all subscriptions.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.sum(|s| s.abandoned)
    }

    /// Messages given back without having been started, over all subscriptions.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.sum(|s| s.released)
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.subscriptions.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{one}")?;
        }
        if let Some(error) = &self.writer_error {
            write!(f, "\nthe writer did not close: {error}")?;
        }
        Ok(())
    }
}

/// What the runner holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Fetched and not settled, all in all.
    pub in_flight: usize,
    /// Of those: waiting for a handler.
    pub queued: usize,
    /// Of those queued: behind a message of their key that waits for its retry.
    pub blocked: usize,
    /// Of those: in a handler.
    pub running: usize,
    /// Of those: waiting for a retry that is not due yet.
    pub waiting: usize,
    /// Handled, and not yet settled with the driver.
    pub unsettled: usize,
}

impl Sum for Activity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |a, b| Self {
            in_flight: a.in_flight + b.in_flight,
            queued: a.queued + b.queued,
            blocked: a.blocked + b.blocked,
            running: a.running + b.running,
            waiting: a.waiting + b.waiting,
            unsettled: a.unsettled + b.unsettled,
        })
    }
}
