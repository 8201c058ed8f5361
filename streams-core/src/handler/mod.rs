//! Handlers: what an application does with a message.

mod batch;
mod cancellation;
mod context;
mod function;
mod outcome;
mod outputs;

use std::future::Future;

pub use batch::{Batch, BatchOutcome};
pub(crate) use cancellation::CancelCell;
pub use cancellation::Cancelled;
pub use context::Context;
pub(crate) use context::{ContextParts, SubscriptionInfo};
pub(crate) use function::catch_panic;
pub use function::{BatchFn, EventFn, MessageFn, batch_fn, event_fn, message_fn};
pub(crate) use outcome::panic_text;
pub use outcome::{HandlerError, HandlerResult, IntoHandlerResult, Outcome};

/// Handles deliveries: one at a time (`Handler<Context>`, the default) or a batch at a time
/// (`Handler<Batch>`).
///
/// Most applications pass closures to [`Bus::subscribe`](crate::Bus::subscribe) and never implement
/// this. Middleware does, once for both kinds: see [`Input`].
///
/// # Behavior
/// - `Ok` acknowledges; an error is retried with backoff and then dead-lettered. Nothing is dropped.
/// - A panic counts as an error of that message (of the whole batch, for a batch handler).
/// - The future may be dropped at any await, at the shutdown deadline: leave nothing half done
///   across one that a retry could not repair.
///
/// ```
/// use streams_core::{Context, Handler, HandlerResult, Outcome};
///
/// struct Print;
///
/// impl Handler for Print {
///     async fn handle(&self, context: &Context) -> HandlerResult {
///         println!("{}", context.message().id());
///         Ok(Outcome::Ack)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{I}`",
    label = "not a handler of this kind",
    note = "a handler of single messages implements `Handler<Context>`, one of batches \
            `Handler<Batch>`; wrap a closure with `message_fn`, `event_fn` or `batch_fn`"
)]
pub trait Handler<I: Input = Context>: Send + Sync + 'static {
    /// Handles one input.
    fn handle(&self, input: &I) -> impl Future<Output = I::Output> + Send;
}

/// What a handler can be given: a [`Context`] (one delivery) or a [`Batch`].
///
/// Middleware written against this trait works around both:
///
/// ```
/// use streams_core::{Handler, Input};
///
/// /// Counts failures.
/// struct CountFailures<H> {
///     next: H,
///     failures: std::sync::atomic::AtomicUsize,
/// }
///
/// impl<I: Input, H: Handler<I>> Handler<I> for CountFailures<H> {
///     async fn handle(&self, input: &I) -> I::Output {
///         let mut output = self.next.handle(input).await;
///         for (_context, result) in input.items().iter().zip(I::results(&mut output)) {
///             if result.is_err() {
///                 self.failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///             }
///         }
///         output
///     }
/// }
/// ```
pub trait Input: sealed::Sealed + Send + Sync + Sized + 'static {
    /// A result for each delivery.
    type Output: Send;

    /// The deliveries.
    fn items(&self) -> &[Context];

    /// The results, one for each of [`items`](Input::items).
    fn results(output: &mut Self::Output) -> &mut [HandlerResult];

    /// An output that says the same of every delivery, as `result` says.
    fn output(&self, result: impl FnMut(&Context) -> HandlerResult) -> Self::Output;

    /// The same input with `change` made to each delivery's context.
    #[must_use]
    fn map_contexts(&self, change: impl FnMut(Context) -> Context) -> Self;

    /// An input of only those deliveries whose index is in `keep`; `None` if that is none.
    fn select(&self, keep: &[usize]) -> Option<Self>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Context {}
    impl Sealed for super::Batch {}
}

impl Input for Context {
    type Output = HandlerResult;

    fn items(&self) -> &[Context] {
        std::slice::from_ref(self)
    }

    fn results(output: &mut HandlerResult) -> &mut [HandlerResult] {
        std::slice::from_mut(output)
    }

    fn output(&self, mut result: impl FnMut(&Context) -> HandlerResult) -> HandlerResult {
        result(self)
    }

    fn map_contexts(&self, mut change: impl FnMut(Context) -> Context) -> Self {
        change(self.clone())
    }

    fn select(&self, keep: &[usize]) -> Option<Self> {
        keep.contains(&0).then(|| self.clone())
    }
}

impl Input for Batch {
    type Output = BatchOutcome;

    fn items(&self) -> &[Context] {
        self
    }

    fn results(output: &mut BatchOutcome) -> &mut [HandlerResult] {
        output.results_mut()
    }

    fn output(&self, result: impl FnMut(&Context) -> HandlerResult) -> BatchOutcome {
        self.iter().map(result).collect()
    }

    fn map_contexts(&self, change: impl FnMut(Context) -> Context) -> Self {
        Batch::from_contexts(self.iter().cloned().map(change).collect())
    }

    fn select(&self, keep: &[usize]) -> Option<Self> {
        let kept: Vec<_> = keep.iter().filter_map(|i| self.get(*i).cloned()).collect();
        (!kept.is_empty()).then(|| Batch::from_contexts(kept))
    }
}
