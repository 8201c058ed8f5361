//! Bridges to and from [`tower_service::Service`].
//!
//! - [`ServiceHandler`]: a service handles deliveries.
//! - [`HandlerService`]: a handler is called as a service.
//! - [`ServiceLayer`]: a tower middleware goes around a handler, which is both of these.
//!
//! Middleware of this toolkit needs none of them: it implements [`tower_layer::Layer`], so that
//! `tower::ServiceBuilder` composes it as it is.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::{Context, Handler, HandlerError, HandlerResult, IntoHandlerResult, Outcome};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Handles deliveries with a tower service.
///
/// The service is cloned for each delivery, waited for until it is ready, then called. Its error
/// counts as the handler's; a [`HandlerError`] from deeper within comes out as it went in, even
/// through a middleware that boxes errors.
///
/// # Pitfalls
/// A middleware that keeps its state for itself and not for its clones (`tower::load_shed` is fine,
/// `tower::limit::RateLimit` is no `Clone` at all) goes into a `tower::buffer::Buffer` first.
///
/// ```
/// use streams_core::tower::ServiceHandler;
/// use streams_core::{Context, Handler, Message, Outcome};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let handler = ServiceHandler::new(tower::service_fn(|context: Context| async move {
///     println!("{}", context.message().id());
///     Ok::<_, std::io::Error>(())
/// }));
/// let context = Context::for_test(Message::builder("a").data("x").build()?);
/// assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ServiceHandler<S> {
    service: S,
}

impl<S> ServiceHandler<S> {
    /// Handles deliveries with `service`.
    pub fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S> Handler for ServiceHandler<S>
where
    S: Service<Context, Response: IntoHandlerResult, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn handle(&self, context: &Context) -> HandlerResult {
        let mut service = self.service.clone();
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(unbox)?;
        let response = service.call(context.clone()).await.map_err(unbox)?;
        response.into_handler_result()
    }
}

/// A handler of single deliveries as a tower service: it answers with the [`Outcome`]. Always ready;
/// clones share the handler. Each call costs one allocation, for its future.
///
/// ```
/// use std::time::Duration;
///
/// use streams_core::tower::HandlerService;
/// use streams_core::{Context, Message, Outcome, message_fn};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let handler = message_fn(|_: Message, _: Context| async {});
/// let service = ServiceBuilder::new()
///     .timeout(Duration::from_secs(5))
///     .service(HandlerService::new(handler));
/// let context = Context::for_test(Message::builder("a").data("x").build()?);
/// assert_eq!(service.oneshot(context).await.unwrap(), Outcome::Ack);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct HandlerService<H> {
    handler: Arc<H>,
}

impl<H> HandlerService<H> {
    /// Calls `handler` as a service.
    pub fn new(handler: H) -> Self {
        Self {
            handler: Arc::new(handler),
        }
    }
}

impl<H> Clone for HandlerService<H> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
        }
    }
}

impl<H: Handler> Service<Context> for HandlerService<H> {
    type Response = Outcome;
    type Error = HandlerError;
    type Future = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), HandlerError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, context: Context) -> Self::Future {
        let handler = self.handler.clone();
        Box::pin(async move { handler.handle(&context).await })
    }
}

/// Puts a tower middleware around a handler of single deliveries, such as
/// `tower::limit::ConcurrencyLimitLayer` to share one limit among subscriptions.
///
/// ```
/// use streams_core::tower::ServiceLayer;
/// use streams_core::{Bus, Context, Message};
/// use tower::limit::GlobalConcurrencyLimitLayer;
///
/// # fn example(bus: &Bus) -> streams_core::Result<()> {
/// let limit = GlobalConcurrencyLimitLayer::new(10);
/// for stream in ["user.created", "user.deleted"] {
///     bus.subscribe_stream(stream, |_: Message, _: Context| async {})
///         .layer(ServiceLayer::new(limit.clone()))
///         .register()?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ServiceLayer<L> {
    layer: L,
}

impl<L> ServiceLayer<L> {
    /// From a tower layer.
    pub fn new(layer: L) -> Self {
        Self { layer }
    }
}

impl<H, L: Layer<HandlerService<H>>> Layer<H> for ServiceLayer<L> {
    type Service = ServiceHandler<L::Service>;

    fn layer(&self, handler: H) -> Self::Service {
        ServiceHandler::new(self.layer.layer(HandlerService::new(handler)))
    }
}

/// So that middleware that boxes its service's errors can go around a [`HandlerService`].
impl From<HandlerError> for BoxError {
    fn from(error: HandlerError) -> Self {
        Box::new(Boxed(error))
    }
}

/// A handler's error on its way through middleware that knows only `std::error::Error`.
struct Boxed(HandlerError);

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source().source()
    }
}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn unbox(error: impl Into<BoxError>) -> HandlerError {
    match error.into().downcast::<Boxed>() {
        Ok(boxed) => boxed.0,
        Err(other) => HandlerError::new(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Barrier;
    use tower::limit::GlobalConcurrencyLimitLayer;
    use tower::timeout::TimeoutLayer;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{Input, Message, message_fn};

    fn context() -> Context {
        Context::for_test(Message::builder("a").data("x").build().unwrap())
    }

    /// A layer of the core's kind that leaves its mark in the headers the inner handler sees.
    #[derive(Clone)]
    struct Mark(&'static str);

    struct Marked<H>(&'static str, H);

    impl<H> Layer<H> for Mark {
        type Service = Marked<H>;

        fn layer(&self, next: H) -> Marked<H> {
            Marked(self.0, next)
        }
    }

    impl<I: Input, H: Handler<I>> Handler<I> for Marked<H> {
        async fn handle(&self, input: &I) -> I::Output {
            let input = input.map_contexts(|context| {
                let mut headers = context.headers().clone();
                headers.append("mark", self.0);
                let message = context.message().to_builder().headers(headers).build();
                context.with_message(message.unwrap())
            });
            self.1.handle(&input).await
        }
    }

    fn marks(message: &Message) -> Vec<&str> {
        let marks = message.headers().get_all("mark");
        marks
            .map(|mark| std::str::from_utf8(mark).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_service_handles() {
        let handler = ServiceHandler::new(service_fn(|context: Context| async move {
            match context.attempt() {
                1 => Ok(Outcome::Release),
                _ => Err(std::io::Error::other("no")),
            }
        }));
        assert_eq!(handler.handle(&context()).await.unwrap(), Outcome::Release);
        let error = handler
            .handle(&context().with_attempt(2))
            .await
            .unwrap_err();
        assert!(!error.is_unrecoverable());
        assert!(error.downcast_ref::<std::io::Error>().is_some());
    }

    #[tokio::test]
    async fn a_service_is_called_only_when_ready() {
        #[derive(Clone, Default)]
        struct ReadyAtThird {
            polls: usize,
        }
        impl Service<Context> for ReadyAtThird {
            type Response = ();
            type Error = std::io::Error;
            type Future = std::future::Ready<Result<(), std::io::Error>>;

            fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), std::io::Error>> {
                self.polls += 1;
                if self.polls < 3 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, _: Context) -> Self::Future {
                let ready = self.polls == 3;
                std::future::ready(
                    ready
                        .then_some(())
                        .ok_or_else(|| std::io::Error::other("not ready")),
                )
            }
        }
        let handler = ServiceHandler::new(ReadyAtThird::default());
        for _ in 0..2 {
            assert_eq!(handler.handle(&context()).await.unwrap(), Outcome::Ack);
        }
    }

    #[tokio::test]
    async fn a_handler_is_a_service() {
        let service = HandlerService::new(message_fn(|_: Message, context: Context| async move {
            (context.attempt() == 1)
                .then_some(Outcome::Ack)
                .ok_or(fmt::Error)
        }));
        assert_eq!(
            service.clone().oneshot(context()).await.unwrap(),
            Outcome::Ack
        );
        let error = service
            .oneshot(context().with_attempt(2))
            .await
            .unwrap_err();
        assert!(error.downcast_ref::<fmt::Error>().is_some());
    }

    #[tokio::test]
    async fn service_builder_composes_core_layers_first_outermost() {
        let handler = ServiceBuilder::new()
            .layer(Mark("outer"))
            .layer(Mark("inner"))
            .service(message_fn(|message: Message, _: Context| async move {
                assert_eq!(marks(&message), ["outer", "inner"]);
            }));
        handler.handle(&context()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn service_builder_composes_tower_and_core_layers() {
        let handler =
            ServiceBuilder::new()
                .layer(Mark("outer"))
                .layer(ServiceLayer::new(TimeoutLayer::new(Duration::from_secs(1))))
                .layer(Mark("inner"))
                .service(message_fn(
                    |message: Message, context: Context| async move {
                        assert_eq!(marks(&message), ["outer", "inner"]);
                        match context.attempt() {
                            1 => Ok(()),
                            2 => Err(HandlerError::unrecoverable("no")
                                .retry_after(Duration::from_secs(7))),
                            _ => std::future::pending().await,
                        }
                    },
                ));
        assert_eq!(handler.handle(&context()).await.unwrap(), Outcome::Ack);

        let error = handler
            .handle(&context().with_attempt(2))
            .await
            .unwrap_err();
        assert!(
            error.is_unrecoverable(),
            "kept through the boxing of errors"
        );
        assert_eq!(error.delay(), Some(Duration::from_secs(7)));

        let error = handler
            .handle(&context().with_attempt(3))
            .await
            .unwrap_err();
        assert!(
            error
                .downcast_ref::<tower::timeout::error::Elapsed>()
                .is_some()
        );
        assert!(!error.is_unrecoverable());
    }

    #[tokio::test]
    async fn one_limit_bounds_many_handlers() {
        let limit = ServiceLayer::new(GlobalConcurrencyLimitLayer::new(2));
        let running = Arc::new(AtomicUsize::new(0));
        let pairs = Arc::new(Barrier::new(2));
        let work = {
            let running = running.clone();
            move |_: Message, _: Context| {
                let (running, pairs) = (running.clone(), pairs.clone());
                async move {
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                    pairs.wait().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        let handlers = [
            limit.layer(message_fn(work.clone())),
            limit.layer(message_fn(work)),
        ];
        let all = (0..10).map(|i| {
            let handler = handlers[i % 2].clone();
            tokio::spawn(async move { handler.handle(&context()).await })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.unwrap().unwrap(), Outcome::Ack);
        }
    }
}
