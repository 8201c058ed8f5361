//! One-off middleware from a closure.
//!
//! # Behavior
//! - The closure gets the delivery (a [`Context`](streams_core::Context), or a
//!   [`Batch`](streams_core::Batch) around a batch handler) and [`Next`], the handler within. It may
//!   call that or not, before or after something else, with the same input or a changed one.
//! - Name both types in the closure: `|context: Context, next: Next<_>|`.
//! - Costs a clone of the input for each call, and nothing else.
//! - A panic in the closure is an error of its deliveries, as one in the handler.
//!
//! # Where it belongs
//! Wherever what it does belongs. An error it returns is treated by the layers around it like the
//! handler's.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use streams_core::{Handler, Input, Layer};

/// Middleware from a closure. See the [module](self).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use streams_core::{Context, Handler, Layer, Message, Outcome, message_fn};
/// use streams_middleware::{Next, from_fn};
///
/// let only_tenants = from_fn(|context: Context, next: Next<_>| async move {
///     if context.headers().get("tenant").is_none() {
///         return Ok(Outcome::dead_letter("no tenant"));
///     }
///     next.run(context).await
/// });
/// let handler = only_tenants.layer(message_fn(|_, _| async { Outcome::Ack }));
///
/// let message = Message::builder("orders").data("x");
/// let with = Context::for_test(message.header("tenant", "acme").build()?);
/// assert_eq!(handler.handle(&with).await.unwrap(), Outcome::Ack);
/// let without = Context::for_test(Message::builder("orders").data("x").build()?);
/// assert_eq!(handler.handle(&without).await.unwrap(), Outcome::dead_letter("no tenant"));
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
pub fn from_fn<F>(function: F) -> FromFn<F> {
    FromFn { function }
}

/// The layer made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<F> {
    function: F,
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromFn")
    }
}

impl<F: Clone, H> Layer<H> for FromFn<F> {
    type Service = FromFnService<F, H>;

    fn layer(&self, next: H) -> Self::Service {
        FromFnService {
            function: self.function.clone(),
            next: Next(Arc::new(next)),
        }
    }
}

/// The handler within: call [`run`](Next::run). Cheap to clone.
pub struct Next<H>(Arc<H>);

impl<H> Next<H> {
    /// Runs it. To run it more than once, clone it.
    pub async fn run<I: Input>(self, input: I) -> I::Output
    where
        H: Handler<I>,
    {
        self.0.handle(&input).await
    }
}

impl<H> Clone for Next<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H> fmt::Debug for Next<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

/// A handler within [`FromFn`].
pub struct FromFnService<F, H> {
    function: F,
    next: Next<H>,
}

impl<F, H> fmt::Debug for FromFnService<F, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromFnService")
    }
}

impl<F, Fut, I, H> Handler<I> for FromFnService<F, H>
where
    I: Input + Clone,
    H: Handler<I>,
    F: Fn(I, Next<H>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = I::Output> + Send,
{
    async fn handle(&self, input: &I) -> I::Output {
        (self.function)(input.clone(), self.next.clone()).await
    }
}
