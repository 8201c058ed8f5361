//! Closures as handlers.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::{
    Batch, BatchOutcome, Context, Handler, HandlerError, HandlerResult, Input, IntoHandlerResult,
};
use crate::Message;
use crate::codec;
use crate::event::{Event, Schema};

/// A handler from a closure over the whole message.
///
/// ```
/// use streams_core::{Context, Handler, Message, message_fn};
///
/// let handler = message_fn(|message: Message, _context: Context| async move {
///     println!("{} bytes", message.data().len());
/// });
/// # fn is_handler(_: impl Handler) {} is_handler(handler);
/// ```
pub fn message_fn<F, Fut>(function: F) -> MessageFn<F>
where
    F: Fn(Message, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    MessageFn(function)
}

/// A handler from a closure over a decoded event. Data that does not decode is an
/// [unrecoverable](HandlerError::unrecoverable) error: it goes to the dead letters with the reason,
/// and the stream goes on.
pub fn event_fn<E, F, Fut>(function: F) -> EventFn<E, F>
where
    E: Event,
    F: Fn(E, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    EventFn {
        function,
        schema: E::schema(),
        event: PhantomData,
    }
}

/// A handler from a closure over a batch, with a result for each delivery.
///
/// ```
/// use streams_core::{Batch, Handler, batch_fn};
///
/// let handler = batch_fn(|batch: Batch| async move {
///     println!("{} messages", batch.len());
///     batch.ack_all()
/// });
/// # fn is_handler(_: impl Handler<Batch>) {} is_handler(handler);
/// ```
pub fn batch_fn<F, Fut>(function: F) -> BatchFn<F>
where
    F: Fn(Batch) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = BatchOutcome> + Send,
{
    BatchFn(function)
}

/// Made by [`message_fn`].
#[derive(Clone)]
pub struct MessageFn<F>(F);

impl<F, Fut> Handler for MessageFn<F>
where
    F: Fn(Message, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    async fn handle(&self, context: &Context) -> HandlerResult {
        let run = || (self.0)(context.message().clone(), context.clone());
        match catch_panic(run).await {
            Ok(output) => output.into_handler_result(),
            Err(panic) => Err(HandlerError::panic(&*panic)),
        }
    }
}

/// Made by [`event_fn`].
pub struct EventFn<E: Event, F> {
    function: F,
    schema: Schema<E>,
    event: PhantomData<fn(E)>,
}

impl<E, F, Fut> Handler for EventFn<E, F>
where
    E: Event,
    F: Fn(E, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: IntoHandlerResult> + Send,
{
    async fn handle(&self, context: &Context) -> HandlerResult {
        let event = codec::decode(&self.schema, context.message())?;
        match catch_panic(|| (self.function)(event, context.clone())).await {
            Ok(output) => output.into_handler_result(),
            Err(panic) => Err(HandlerError::panic(&*panic)),
        }
    }
}

/// Made by [`batch_fn`].
#[derive(Clone)]
pub struct BatchFn<F>(F);

impl<F, Fut> Handler<Batch> for BatchFn<F>
where
    F: Fn(Batch) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = BatchOutcome> + Send,
{
    async fn handle(&self, batch: &Batch) -> BatchOutcome {
        match catch_panic(|| (self.0)(batch.clone())).await {
            Ok(mut outcome) => {
                outcome.fit(batch.len());
                outcome
            }
            Err(panic) => batch.output(|_| Err(HandlerError::panic(&*panic))),
        }
    }
}

/// Runs a future to its end or to its panic, polling it in place.
pub(crate) async fn catch_panic<Fut: Future>(
    start: impl FnOnce() -> Fut,
) -> Result<Fut::Output, Box<dyn Any + Send>> {
    // A handler that panicked is not called again for this delivery's future, and what it shares
    // with others is its own affair, as with a panicking thread.
    let mut future = pin!(catch_unwind(AssertUnwindSafe(start))?);
    std::future::poll_fn(move |cx| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

macro_rules! debug_by_name {
    ($($name:literal: $type:ty where [$($generics:tt)*]);* $(;)?) => {$(
        impl<$($generics)*> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($name)
            }
        }
    )*};
}

debug_by_name! {
    "MessageFn": MessageFn<F> where [F];
    "EventFn": EventFn<E, F> where [E: Event, F];
    "BatchFn": BatchFn<F> where [F];
}
