//! Transactions with an outbox.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::TransactWriteItem;
use streams_core::{
    Backoff, Capabilities, Error, ErrorKind, Message, Order, Result, WriteError, Writer,
    async_trait,
};
use tokio::time::sleep;

use super::Outbox;
use super::items::{LARGEST_ROW, check_limits, validate, whole};
use crate::DRIVER;
use crate::error::{reasons, transaction};

/// How often a transaction is sent again that was cancelled for what may go away.
const ATTEMPTS: u32 = 8;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

impl Outbox {
    /// Begins a transaction, in which code that publishes through a [`Writer`] or a
    /// [`Publisher`](streams_core::Publisher) works unchanged. Nothing is sent until
    /// [`commit`](OutboxTransaction::commit).
    pub fn begin(&self) -> OutboxTransaction {
        OutboxTransaction {
            outbox: self.clone(),
            state: Arc::default(),
            own: Vec::new(),
            prepared: None,
        }
    }
}

/// A transaction with an outbox: made by [`Outbox::begin`]. Dropped, it is rolled back, and nothing of
/// it is ever published.
///
/// ```no_run
/// # use aws_sdk_dynamodb::types::TransactWriteItem;
/// # use serde::{Deserialize, Serialize};
/// # use streams_core::{Event, Publisher, Schema};
/// # #[derive(Serialize, Deserialize)] struct PaymentMade { id: i64 }
/// # impl Event for PaymentMade {
/// #     fn schema() -> Schema<Self> { Schema::json("PaymentMade").stream("payment.made") }
/// # }
/// # async fn pay(
/// #     outbox: streams_dynamodb::Outbox, publisher: Publisher, payment: TransactWriteItem,
/// # ) -> streams_core::Result<()> {
/// let mut tx = outbox.begin();
/// tx.add(payment)?;
/// publisher.on(tx.writer()).publish(&PaymentMade { id: 17 }).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[must_use = "a transaction that is dropped is rolled back; call `commit`"]
pub struct OutboxTransaction {
    outbox: Outbox,
    state: Arc<Mutex<State>>,
    own: Vec<TransactWriteItem>,
    /// What was sent and may have been committed: the same is sent again.
    prepared: Option<Prepared>,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    ended: bool,
}

struct Prepared {
    token: String,
    items: Vec<TransactWriteItem>,
}

impl OutboxTransaction {
    /// Adds an item of your own: a put, an update, a delete or a condition.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) after the commit was tried.
    pub fn add(&mut self, item: TransactWriteItem) -> Result<()> {
        if self.prepared.is_some() || lock(&self.state).ended {
            return Err(ended());
        }
        self.own.push(item);
        Ok(())
    }

    /// A writer to the outbox in the transaction. After the commit was tried it refuses with
    /// [`Closed`](ErrorKind::Closed). Its `Ok` says that the messages are in the transaction; they are
    /// published if that is committed.
    #[must_use]
    pub fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(TransactionWriter {
            state: self.state.clone(),
            closed: AtomicBool::new(false),
            capabilities: Capabilities::none(DRIVER)
                .durable(true)
                .order(if self.outbox.0.ordered {
                    Order::PerKey
                } else {
                    Order::None
                })
                .transactions(true)
                .creates_streams(true)
                .largest_message(Some(LARGEST_ROW - 4096))
                .binary_headers(true),
        })
    }

    /// Commits the transaction and wakes the relays of this process. Where others are at the same
    /// items, or DynamoDB throttles, it tries a few times.
    ///
    /// If nobody can tell whether it was committed ([`Timeout`](ErrorKind::Timeout),
    /// [`Unavailable`](ErrorKind::Unavailable)), call it again within ten minutes: the same is sent
    /// under the same token, so it is done once.
    ///
    /// # Errors
    /// With each cancelled transaction, the reason of each item, by the order they were added in.
    /// - [`Unrecoverable`](ErrorKind::Unrecoverable) when a condition of yours does not hold.
    /// - [`Conflict`](ErrorKind::Conflict) when other transactions were at the same items.
    /// - [`TooLarge`](ErrorKind::TooLarge) when it is more than DynamoDB takes; nothing was sent.
    /// - [`check`](Outbox::check)'s, and DynamoDB's.
    pub async fn commit(&mut self) -> Result<()> {
        let messages = {
            let mut state = lock(&self.state);
            if state.ended && self.prepared.is_none() {
                return Err(ended());
            }
            state.ended = true;
            state.messages.clone()
        };
        for attempt in 1.. {
            let prepared = match self.prepared.take() {
                Some(prepared) => prepared,
                None => self.prepare(&messages).await?,
            };
            if prepared.items.is_empty() {
                return Ok(());
            }
            let Prepared { token, items } = self.prepared.insert(prepared);
            let client = &self.outbox.dynamodb().client;
            let request = client.transact_write_items().client_request_token(&*token);
            let request = request.set_transact_items(Some(items.clone()));
            let Err(source) = request.send().await else {
                self.prepared = None;
                self.outbox.notify();
                return Ok(());
            };
            if reasons(&source).is_none() {
                // Who knows? What is prepared stays as it is.
                return Err(transaction(&source, self.own.len()));
            }
            self.prepared = None;
            if attempt < ATTEMPTS && self.outbox.learn(&source) {
                continue;
            }
            let error = transaction(&source, self.own.len());
            if attempt >= ATTEMPTS || !error.is_retryable() || error.kind() == ErrorKind::Other {
                return Err(error);
            }
            sleep(BACKOFF.delay(attempt)).await;
        }
        Ok(())
    }

    async fn prepare(&self, messages: &[Message]) -> Result<Prepared> {
        let mut items = self.own.clone();
        items.extend(self.outbox.items(messages).await?);
        check_limits(&items)?;
        let token = format!("{:032x}", fastrand::u128(..));
        Ok(Prepared { token, items })
    }

    /// Rolls the transaction back: nothing was sent yet. As if it were dropped.
    pub fn rollback(self) {}
}

/// Whoever still has a writer learns that it is over.
impl Drop for OutboxTransaction {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
    }
}

impl fmt::Debug for OutboxTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxTransaction")
            .field("outbox", &self.outbox)
            .field("items", &self.own.len())
            .finish_non_exhaustive()
    }
}

struct TransactionWriter {
    state: Arc<Mutex<State>>,
    closed: AtomicBool,
    capabilities: Capabilities,
}

#[async_trait]
impl Writer for TransactionWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let closed = |error: Error| whole(batch.len(), error.operation("write"));
        if batch.is_empty() {
            return Ok(());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(closed(Error::closed("the writer").driver(DRIVER)));
        }
        let mut state = lock(&self.state);
        if state.ended {
            return Err(closed(ended()));
        }
        // All or nothing.
        validate(batch)?;
        state.messages.extend_from_slice(batch);
        Ok(())
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        Ok(self.write(batch).await?)
    }

    /// What is written is confirmed with the transaction.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Closes the writer. The transaction stays open.
    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended() -> Error {
    Error::closed("the transaction").driver(DRIVER)
}
