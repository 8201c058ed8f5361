//! What a case needs to be applicable.

use std::fmt;

use streams_core::{Acknowledgement, Capabilities, Order};

use crate::Harness;

/// A capability of the driver or a hook of the harness that a case needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// Consumer groups.
    Groups,
    /// Readers that share a stream: consumer groups, or streams that are queues.
    Shared,
    /// Reading without a group.
    NoGroup,
    /// Any order of arrival.
    Order,
    /// Acknowledging one by one.
    Individual,
    /// Counting attempts.
    Attempts,
    /// Leases.
    Leases,
    /// Delayed redelivery by the backend.
    DelayedRedelivery,
    /// Listing scheduled messages, and taking them back.
    ListDelayed,
    /// Surviving a restart.
    Durable,
    /// Partitions that are reported.
    Partitions,
    /// Writing a batch all or nothing.
    Transactions,
    /// Settling together with what handling writes.
    ExactlyOnce,
    /// Any start position.
    Start,
    /// A message that a writer refuses.
    Refusal,
    /// A server to restart.
    Server,
    /// A network to cut.
    Network,
    /// A producer that knows nothing of this toolkit.
    Foreign,
}

impl Need {
    /// Whether driver and harness have it.
    pub(crate) fn is_met(self, driver: &Capabilities, harness: &dyn Harness) -> bool {
        match self {
            Self::Groups => driver.groups,
            Self::Shared => driver.groups || driver.shares_without_group,
            Self::NoGroup => driver.no_group,
            Self::Order => driver.order != Order::None,
            Self::Individual => driver.acknowledgement == Acknowledgement::Individual,
            Self::Attempts => driver.attempts,
            Self::Leases => driver.leases,
            Self::DelayedRedelivery => driver.delayed_redelivery.is_some(),
            Self::ListDelayed => driver.list_delayed && driver.cancel_delayed,
            Self::Durable => driver.durable,
            Self::Partitions => driver.partitions,
            Self::Transactions => driver.transactions,
            Self::ExactlyOnce => driver.exactly_once,
            Self::Start => {
                let start = driver.start;
                start.earliest || start.latest || start.position || start.time
            }
            Self::Refusal => {
                driver.largest_message.is_some()
                    || !driver.creates_streams
                    || harness.refused_stream().is_some()
            }
            Self::Server => harness.server().is_some(),
            Self::Network => harness.network().is_some(),
            Self::Foreign => harness.foreign().is_some(),
        }
    }
}

impl fmt::Display for Need {
    /// What is missing where the need is not met.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Groups => "capability `groups`",
            Self::Shared => "capability `groups` or `shares_without_group`",
            Self::NoGroup => "capability `no_group`",
            Self::Order => "capability `order`",
            Self::Individual => "individual acknowledgement",
            Self::Attempts => "capability `attempts`",
            Self::Leases => "capability `leases`",
            Self::DelayedRedelivery => "capability `delayed_redelivery`",
            Self::ListDelayed => "capabilities `list_delayed` and `cancel_delayed`",
            Self::Durable => "capability `durable`",
            Self::Partitions => "capability `partitions`",
            Self::Transactions => "capability `transactions`",
            Self::ExactlyOnce => "capability `exactly_once`",
            Self::Start => "capability `start`",
            Self::Refusal => {
                "a message the writer refuses: a largest message, streams that must exist, or \
                 `Harness::refused_stream`"
            }
            Self::Server => "a server to restart: `Harness::server`",
            Self::Network => "a network to cut: `Harness::network`",
            Self::Foreign => "a foreign producer: `Harness::foreign`",
        })
    }
}
