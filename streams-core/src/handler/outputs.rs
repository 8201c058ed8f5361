//! What a handler publishes where it is written together with the acknowledgement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::SubscriptionInfo;
use crate::{
    Capabilities, Error, ErrorKind, Message, MessageId, Result, Scheduled, StreamName, WriteError,
    Writer,
};

/// Collects what the handler of one delivery publishes. A writer, so that whatever publishes through
/// the context, layers included, collects without knowing.
pub(crate) struct Outputs {
    subscription: Arc<SubscriptionInfo>,
    /// `None` once the handler has returned.
    messages: Mutex<Option<Vec<Message>>>,
}

impl Outputs {
    pub(crate) fn new(subscription: Arc<SubscriptionInfo>) -> Self {
        Self {
            subscription,
            messages: Mutex::new(Some(Vec::new())),
        }
    }

    /// Takes what was published. From now on publishing is an error.
    pub(crate) fn take(&self) -> Vec<Message> {
        let messages = self.messages.lock();
        let taken = messages.unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_default()
    }

    /// Adds what is fit to be written, of `all` or none if one is not.
    fn add(&self, batch: &[Message], all: bool) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(messages) = &mut *messages else {
            return Err(WriteError::all(batch.len(), late));
        };
        let mut failures = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            if let Err(error) = self.check(message) {
                failures.push((index, error));
            }
        }
        if failures.is_empty() {
            messages.extend_from_slice(batch);
            return Ok(());
        }
        if !all {
            let failed = |index| failures.iter().any(|(other, _)| *other == index);
            let fit = batch
                .iter()
                .enumerate()
                .filter(|(index, _)| !failed(*index));
            messages.extend(fit.map(|(_, message)| message.clone()));
        }
        Err(WriteError::new(failures))
    }

    /// Refuses what is too large for the driver: within the transaction it would be too late to tell
    /// the handler.
    pub(crate) fn check(&self, message: &Message) -> Result<()> {
        let size = message.data().len();
        match self.capabilities().largest_message {
            Some(limit) if size > limit => Err(Error::new(
                ErrorKind::TooLarge,
                "the data is larger than the driver takes; split it",
            )
            .operation("publish")
            .driver(self.subscription.driver)
            .with("stream", message.stream())
            .with("size", size)
            .with("limit", limit)),
            _ => Ok(()),
        }
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(
            self.subscription.driver,
            format!(
                "{what} cannot be part of an exactly-once transaction; use the bus's publisher, which is outside of it"
            ),
        )
    }
}

fn late() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the handler has returned, so its transaction is settled; publish before it returns, or \
         through the bus's publisher, which is outside the transaction",
    )
    .operation("publish")
}

#[async_trait]
impl Writer for Outputs {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.add(batch, false)
    }

    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        Some(self.add(batch, false))
    }

    async fn write_at(&self, batch: &[Message], _due: SystemTime) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        Err(WriteError::all(batch.len(), || {
            self.unsupported("a scheduled message")
                .operation("write_at")
        }))
    }

    async fn cancel(&self, _stream: &StreamName, _id: &MessageId) -> Result<bool> {
        Err(self
            .unsupported("taking back a scheduled message")
            .operation("cancel"))
    }

    async fn scheduled(&self, _stream: &StreamName, _limit: usize) -> Result<Vec<Scheduled>> {
        Err(self
            .unsupported("listing scheduled messages")
            .operation("scheduled"))
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        Ok(self.add(batch, true)?)
    }

    /// What is collected is confirmed with its transaction.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        match &self.subscription.transactional {
            Some(capabilities) => capabilities,
            None => unreachable!("outputs are collected for exactly-once subscriptions only"),
        }
    }
}
