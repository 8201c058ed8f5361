//! Relays to a destination that remembers.

use std::sync::Arc;
use std::time::Duration;

use streams_core::Backoff;
use streams_dynamodb::{Mode, Outbox, Relay, RelayBuilder};
pub(crate) use streams_outbox::testing::{Destination, Running};

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

pub(crate) fn run(relay: RelayBuilder) -> Running {
    let relay = relay.build().unwrap();
    Running::start(|stopped| async move { relay.run(stopped).await })
}
