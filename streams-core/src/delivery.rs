//! What a subscription hands to the runner, and what it gets back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::Message;

/// One message as a driver delivers it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// How often it has been delivered, this time included, where the driver counts.
    pub attempt: Option<u32>,
    /// Until when it is this reader's, where the driver leases.
    pub lease: Option<Instant>,
    /// Facts of the driver's by name, such as `streams-kafka-partition-id`.
    pub metadata: Option<Arc<dyn Metadata>>,
    /// What settles it.
    pub token: AckToken,
}

impl Delivery {
    /// A delivery without attempt count, lease or metadata; set what the driver knows.
    #[must_use]
    #[inline]
    pub fn new(message: Message, token: AckToken) -> Self {
        Self {
            message,
            attempt: None,
            lease: None,
            metadata: None,
            token,
        }
    }

    /// Sets the attempt count.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Sets the end of the lease.
    #[must_use]
    pub fn lease(mut self, until: Instant) -> Self {
        self.lease = Some(until);
        self
    }

    /// Sets the driver's facts.
    #[must_use]
    #[inline]
    pub fn metadata(mut self, metadata: Arc<dyn Metadata>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Settles it as done.
    pub fn ack(self) -> Settlement {
        self.token.ack()
    }
}

/// A reader-side fact of the driver's about a delivery. Facts do not travel with the message: one
/// that is written on does not carry them.
///
/// One value can serve many deliveries (all of a partition, say): what differs from one to the next
/// is in the [`TokenId`].
pub trait Metadata: Send + Sync + fmt::Debug {
    /// The names [`Metadata::get`] knows.
    fn names(&self) -> &'static [&'static str];

    /// The fact under `name`.
    fn get(&self, name: &str, delivery: TokenId) -> Option<String>;
}

/// Names a delivery to its driver. Freely copied; it does not settle.
///
/// The runner looks only at the partition and the epoch: the sequence is the driver's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId {
    /// The partition, for drivers that have them; else 0.
    pub partition: u32,
    /// The assignment the delivery came with. It rises each time the partition comes anew.
    pub epoch: u32,
    /// The offset, or any number by which the driver finds the delivery again. With
    /// [`Acknowledgement::Cumulative`](crate::Acknowledgement::Cumulative) it is the offset.
    pub sequence: u64,
}

/// The right to settle one delivery, once: it cannot be cloned, and settling takes it.
///
/// ```compile_fail
/// fn twice(token: streams_core::AckToken) {
///     let _first = token.ack();
///     let _second = token.ack(); // the token is gone
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct AckToken(TokenId);

impl AckToken {
    /// Made by drivers, one for each delivery.
    #[must_use]
    #[inline]
    pub fn new(partition: u32, epoch: u32, sequence: u64) -> Self {
        Self(TokenId {
            partition,
            epoch,
            sequence,
        })
    }

    /// The delivery it is for.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.0
    }

    /// Done: never deliver it again.
    pub fn ack(self) -> Settlement {
        self.settle(SettleAction::Ack)
    }

    /// Deliver it again, at the earliest after `after`.
    pub fn retry(self, after: Option<Duration>) -> Settlement {
        self.settle(SettleAction::Retry { after })
    }

    /// Not handled: deliver it again at once, to anybody, without counting an attempt where the
    /// driver can tell the difference.
    pub fn release(self) -> Settlement {
        self.settle(SettleAction::Release)
    }

    /// Settles as `action` says.
    pub fn settle(self, action: SettleAction) -> Settlement {
        Settlement {
            token: self,
            action,
        }
    }
}

/// What is to become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleAction {
    /// Done: never deliver it again.
    Ack,
    /// Deliver it again.
    Retry {
        /// Not before this long from now; `None` is at once.
        after: Option<Duration>,
    },
    /// Give it back as never handled.
    Release,
}

/// A delivery's end: its token, spent, and what is to become of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a settlement does nothing until it is given to `Subscription::settle`"]
pub struct Settlement {
    /// Which delivery.
    pub token: AckToken,
    /// What becomes of it.
    pub action: SettleAction,
}

/// A settlement and the messages that came of handling its delivery, for
/// [`settle_in_transaction`](crate::Subscription::settle_in_transaction).
///
/// Where deliveries are acknowledged [by position](crate::Acknowledgement::Cumulative), the outputs
/// are those of every delivery up to that position that were not written before.
#[derive(Debug)]
#[must_use = "it does nothing until it is given to `Subscription::settle_in_transaction`"]
pub struct TransactionPart {
    /// What is settled.
    pub settlement: Settlement,
    /// What is written with it, in order.
    pub outputs: Vec<Message>,
}

/// What came of settling.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettleReport {
    /// Deliveries that were no longer this reader's: their lease had run out or their partition
    /// was gone. They are delivered again; nothing is lost.
    pub lost: Vec<TokenId>,
}

/// What came of extending leases.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtendReport {
    /// Deliveries that were no longer this reader's.
    pub lost: Vec<TokenId>,
}

/// What [`Subscription::receive`](crate::Subscription::receive) met.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// Deliveries were added to the buffer.
    Deliveries,
    /// These partitions are now this reader's, each under its epoch.
    Assigned(Vec<Assignment>),
    /// These partitions are about to go. The runner finishes and settles what it can, then calls
    /// `receive` again, which lets them go. Settlements under their epochs are then refused.
    Revoking(Vec<Assignment>),
    /// These partitions are gone already: nothing of them can be settled.
    Lost(Vec<Assignment>),
    /// There will be nothing more: a bounded read has come to its end.
    End,
}

/// A partition under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Assignment {
    /// The partition.
    pub partition: u32,
    /// The epoch, as in [`TokenId::epoch`].
    pub epoch: u32,
}

impl Assignment {
    /// The assignment a delivery came with.
    #[must_use]
    pub fn of(id: TokenId) -> Self {
        Self {
            partition: id.partition,
            epoch: id.epoch,
        }
    }

    pub(crate) fn position(self, sequence: u64) -> TokenId {
        TokenId {
            partition: self.partition,
            epoch: self.epoch,
            sequence,
        }
    }
}
