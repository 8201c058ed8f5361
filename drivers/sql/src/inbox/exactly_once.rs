//! Handlers whose work in the database and the mark "handled" are one transaction.
//!
//! The mark comes first and holds others back until the transaction ends. So of all deliveries of a
//! message one alone is committed, whatever crashes in between; the others find the mark, and are
//! acknowledged without a call.

use std::fmt;
use std::marker::PhantomData;

use streams_core::{
    Backoff, Context, Error, Event, Handler, HandlerResult, IntoHandlerResult, Message, Outcome,
    Result, Schema,
};

use super::Inbox;
use crate::DRIVER;
use crate::database::Database;
use crate::transaction::{Owned, Transaction};

/// Before a message is tried again whose transaction could not begin.
const BACKOFF: Backoff = Backoff::new(
    std::time::Duration::from_millis(200),
    std::time::Duration::from_secs(30),
);

impl<DB: Database> Inbox<DB> {
    /// A handler from a closure over a decoded event, the context and a transaction: what the closure
    /// does in the transaction is done exactly once for each message. Subscribe it with
    /// [`Bus::subscribe_handler`](streams_core::Bus::subscribe_handler).
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use streams_core::{Context, Event, Handler, Message, Outcome, Schema};
    /// # #[derive(Serialize, Deserialize)] struct PaymentMade { id: i64 }
    /// # impl Event for PaymentMade {
    /// #     fn schema() -> Schema<Self> { Schema::json("PaymentMade").stream("payment.made") }
    /// # }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # use sqlx::sqlite::SqlitePoolOptions;
    /// # let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// # sqlx::query("CREATE TABLE bookings (payment INTEGER)").execute(&pool).await?;
    /// # use streams_core::ContentType;
    /// use streams_sql::{Inbox, Sqlite, Transaction};
    ///
    /// let inbox = Inbox::builder(pool.clone()).build()?;
    /// inbox.migrate().await?;
    ///
    /// let handler = inbox.event_fn(
    ///     |payment: PaymentMade, _context: Context, tx: Transaction<Sqlite>| async move {
    ///         sqlx::query("INSERT INTO bookings VALUES (?)")
    ///             .bind(payment.id)
    ///             .execute(&mut *tx.connection().await?)
    ///             .await?;
    ///         Ok::<_, streams_core::HandlerError>(())
    ///     },
    /// );
    ///
    /// // The same message twice.
    /// let message = Message::builder("payment.made")
    ///     .content_type(ContentType::JSON)
    ///     .data(r#"{"id":17}"#)
    ///     .build()?;
    /// let delivery = Context::for_test(message);
    /// assert_eq!(handler.handle(&delivery).await.unwrap(), Outcome::Ack);
    /// assert_eq!(handler.handle(&delivery).await.unwrap(), Outcome::Ack);
    /// let bookings: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM bookings").fetch_one(&pool).await?;
    /// assert_eq!(bookings, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    ///
    /// # Behavior
    /// - [`Outcome::Ack`] commits, anything else rolls back: an error, a retry, a dead letter, a panic,
    ///   a handling that is dropped. The message can then come again.
    /// - Handled before: acknowledged without calling the closure.
    /// - Being handled elsewhere: it waits for that transaction to end, and goes on as above.
    /// - The message cannot be marked, because the database cannot be reached, the wait is too long or
    ///   the table is missing: [postponed](Outcome::Postpone), which counts no attempt, and logged at
    ///   `ERROR`. The closure is not called. It is no failure of the message, so none becomes a dead
    ///   letter.
    /// - The commit fails: an error, so the message comes again. If it was committed all the same, the
    ///   mark is found then.
    /// - Messages are remembered by their id, under the subscription's group and stream. A subscription
    ///   without a group cannot mark them, and postpones each.
    ///
    /// Events published through [`Transaction::writer`] are part of it: exactly once from message to
    /// message. What goes out through the context's publisher, or to any other system, is not.
    ///
    /// # Pitfalls
    /// - Each handling holds a connection of the pool: let the pool have as many as the subscription's
    ///   concurrency. Work in the transaction alone; a second connection from the same pool may never
    ///   come.
    /// - SQLite has one writer at a time, so handlers run one after another.
    pub fn event_fn<E, F, Fut>(&self, function: F) -> InboxEventFn<DB, E, F>
    where
        E: Event,
        F: Fn(E, Context, Transaction<DB>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        InboxEventFn {
            inbox: self.clone(),
            function,
            schema: E::schema(),
            event: PhantomData,
        }
    }

    /// A handler from a closure over the whole message: as [`event_fn`](Inbox::event_fn).
    pub fn message_fn<F, Fut>(&self, function: F) -> InboxMessageFn<DB, F>
    where
        F: Fn(Message, Context, Transaction<DB>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        InboxMessageFn {
            inbox: self.clone(),
            function,
        }
    }

    async fn once<Fut>(
        &self,
        context: &Context,
        work: impl FnOnce(Transaction<DB>) -> Fut,
    ) -> HandlerResult
    where
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        let owned = match self.begin(context).await {
            Ok(Some(owned)) => owned,
            Ok(None) => {
                tracing::debug!(
                    stream = %context.stream(), group = context.group(),
                    id = %context.message().id(),
                    "a duplicate: it has been handled, and is acknowledged"
                );
                return Ok(Outcome::Ack);
            }
            Err(error) => {
                tracing::error!(
                    stream = %context.stream(), group = context.group(),
                    id = %context.message().id(), ?error,
                    "the inbox cannot mark the message, so it is not handled; it is tried again"
                );
                return Ok(Outcome::postpone(BACKOFF.delay(context.attempt())));
            }
        };
        self.clean_up_now_and_then();
        // Dropped here, or in a panic, the transaction is rolled back as well.
        let result = work(owned.share()).await.into_handler_result();
        if matches!(result, Ok(Outcome::Ack)) {
            owned.commit().await?;
        } else if let Err(error) = owned.rollback().await {
            tracing::debug!(
                ?error,
                "the connection broke; the database rolls back by itself"
            );
        }
        result
    }

    /// A transaction in which the message is marked; `None` if it was handled before.
    async fn begin(&self, context: &Context) -> Result<Option<Owned<DB>>> {
        let group = context.group().ok_or_else(|| {
            Error::invalid_config(
                "exactly once needs a group to remember messages under; subscribe with one",
            )
            .driver(DRIVER)
        })?;
        let group = format!("{group}:{}", context.stream());
        let owned = Owned::begin(&self.0.pool).await?;
        let transaction = owned.share();
        let mut connection = transaction.connection().await?;
        let id = context.message().id();
        let first_time = self.first_time_in(&mut connection, &group, id).await?;
        drop(connection);
        if first_time {
            return Ok(Some(owned));
        }
        owned.rollback().await?;
        Ok(None)
    }
}

/// Made by [`Inbox::event_fn`].
pub struct InboxEventFn<DB: Database, E: Event, F> {
    inbox: Inbox<DB>,
    function: F,
    schema: Schema<E>,
    event: PhantomData<fn(E)>,
}

impl<DB, E, F, Fut> Handler for InboxEventFn<DB, E, F>
where
    DB: Database,
    E: Event,
    F: Fn(E, Context, Transaction<DB>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    async fn handle(&self, context: &Context) -> HandlerResult {
        let event = self.schema.decode(context.message())?;
        let work = |transaction| (self.function)(event, context.clone(), transaction);
        self.inbox.once(context, work).await
    }
}

impl<DB: Database, E: Event, F> fmt::Debug for InboxEventFn<DB, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxEventFn")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}

/// Made by [`Inbox::message_fn`].
pub struct InboxMessageFn<DB: Database, F> {
    inbox: Inbox<DB>,
    function: F,
}

impl<DB, F, Fut> Handler for InboxMessageFn<DB, F>
where
    DB: Database,
    F: Fn(Message, Context, Transaction<DB>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    async fn handle(&self, context: &Context) -> HandlerResult {
        let message = context.message().clone();
        let work = |transaction| (self.function)(message, context.clone(), transaction);
        self.inbox.once(context, work).await
    }
}

impl<DB: Database, F> fmt::Debug for InboxMessageFn<DB, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxMessageFn")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}
