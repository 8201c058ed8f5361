//! Helpers for tests of applications: the application's own bus, in process.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use streams_chanbuf::testing::TestBus;
//! use streams_core::{Context, Event};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
//! #[event(stream = "user.created")]
//! struct UserCreated { user_id: String }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
//! #[event(stream = "mail.sent")]
//! struct MailSent { to: String }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> streams_core::Result<()> {
//! let test = TestBus::new()?;
//! let bus = test.bus();
//! bus.registry().register::<UserCreated>()?;
//! bus.registry().register::<MailSent>()?;
//! bus.subscribe_event(|event: UserCreated, context: Context| async move {
//!     context.publisher().publish(&MailSent { to: event.user_id }).await.map(|_| ())
//! })
//! .group("mailer")
//! .register()?;
//! bus.start().await?;
//!
//! bus.publish(&UserCreated { user_id: "17".into() }).await?;
//! test.wait_idle().await;
//! assert_eq!(test.published::<MailSent>()?, [MailSent { to: "17".into() }]);
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{
    Bus, Clock, Error, ErrorKind, Event, EventRegistry, Handler, HandlerError, HandlerResult,
    Input, Layer, Message, Outcome, Result,
};

use crate::{Chanbuf, ChanbufBuilder, Unheld};

/// How many messages of each stream [`TestBus::published`] looks back on.
const RECORDED: usize = 100_000;

/// A bus on a broker of its own that remembers what was published, knows when there is nothing left
/// to do, and goes by tokio's clock: on a paused runtime (`#[tokio::test(start_paused = true)]`)
/// retries and scheduled messages take no real time.
///
/// What is published to a stream that nobody holds is remembered and otherwise dropped, so that an
/// application's outgoing events need no reader.
#[derive(Debug, Clone)]
pub struct TestBus {
    bus: Bus<Chanbuf>,
    chanbuf: Chanbuf,
    clock: Clock,
}

impl TestBus {
    /// A bus with default settings. Call it within the runtime.
    ///
    /// # Errors
    /// None with these settings.
    pub fn new() -> Result<Self> {
        Self::with(Chanbuf::builder(), EventRegistry::new())
    }

    /// A bus with a broker of these settings and with this registry.
    ///
    /// # Errors
    /// As [`ChanbufBuilder::build`].
    pub fn with(broker: ChanbufBuilder, registry: EventRegistry) -> Result<Self> {
        let clock = Clock::following_tokio();
        let chanbuf = broker
            .record(RECORDED)
            .unheld(Unheld::Discard)
            .clock(clock)
            .build()?;
        let bus = Bus::builder(chanbuf.clone())
            .registry(registry)
            .clock(clock)
            .build()?;
        Ok(Self {
            bus,
            chanbuf,
            clock,
        })
    }

    /// The bus, to be given to the application.
    #[must_use]
    pub fn bus(&self) -> &Bus<Chanbuf> {
        &self.bus
    }

    /// The broker.
    #[must_use]
    pub fn chanbuf(&self) -> &Chanbuf {
        &self.chanbuf
    }

    /// The events of type `E` published so far to the stream `E` is registered under, oldest first,
    /// the last 100,000 of them. Scheduled ones count once they are due.
    ///
    /// # Errors
    /// - [`EventNotFound`](ErrorKind::EventNotFound) when `E` is not registered.
    /// - [`Codec`](ErrorKind::Codec) when the stream has something else on it.
    pub fn published<E: Event>(&self) -> Result<Vec<E>> {
        let stream = self.bus.registry().stream_of::<E>()?;
        let schema = E::schema();
        self.chanbuf
            .recorded(stream)?
            .iter()
            .map(|message| schema.decode(message))
            .collect()
    }

    /// The messages published so far to a stream, oldest first, the last 100,000 of them.
    ///
    /// # Errors
    /// [`InvalidMessage`](ErrorKind::InvalidMessage) for a bad stream name.
    pub fn published_messages(
        &self,
        stream: impl streams_core::IntoStreamName,
    ) -> Result<Vec<Message>> {
        self.chanbuf.recorded(stream)
    }

    /// Waits until there is nothing to do now: nothing can be delivered and no handler runs. What
    /// waits for a retry delay or for its due time does not count, nor what waits behind it for its
    /// key.
    ///
    /// Handlers must belong to this bus; a subscription opened by hand and left unsettled keeps it
    /// busy.
    pub async fn wait_idle(&self) {
        self.bus
            .wait_until(|activity| {
                let backlog = self.chanbuf.backlog();
                let put_off = activity.waiting + activity.blocked;
                backlog.ready == 0 && backlog.unsettled == put_off
            })
            .await;
    }

    /// Waits until nothing is left: no retry pending, nothing scheduled. On a paused runtime time
    /// skips ahead to each.
    pub async fn wait_drained(&self) {
        loop {
            self.bus
                .wait_until(|_| {
                    let backlog = self.chanbuf.backlog();
                    backlog.ready + backlog.unsettled + backlog.waiting == 0
                })
                .await;
            // Nobody may be reading the stream it is scheduled for, so nobody else would look.
            let Some(due) = self.chanbuf.next_due() else {
                return;
            };
            tokio::time::sleep(self.clock.until(due)).await;
        }
    }

    /// Moves the clock and waits until there is nothing to do now. Needs a paused runtime
    /// (`start_paused = true`).
    pub async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
        self.wait_idle().await;
    }
}

/// A layer that makes the next deliveries fail before they reach the handler, as often as
/// [`fail_next`](FailNext::fail_next) says. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct FailNext {
    left: Arc<AtomicUsize>,
}

impl FailNext {
    /// Lets everything through until told otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next `count` deliveries fail with an error that is worth a retry.
    pub fn fail_next(&self, count: usize) {
        self.left.store(count, Ordering::SeqCst);
    }
}

impl<H> Layer<H> for FailNext {
    type Service = Failing<H>;

    fn layer(&self, next: H) -> Failing<H> {
        Failing {
            left: self.left.clone(),
            next,
        }
    }
}

/// Made by [`FailNext`].
#[derive(Debug, Clone)]
pub struct Failing<H> {
    left: Arc<AtomicUsize>,
    next: H,
}

impl<I: Input, H: Handler<I>> Handler<I> for Failing<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let count = input.items().len();
        let take = |left: usize| Some(left.saturating_sub(count));
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        let failing = left.unwrap_or_default().min(count);
        if failing == 0 {
            return self.next.handle(input).await;
        }
        // The first ones of a batch fail, the others are handled.
        let mut results: Vec<HandlerResult> = (0..failing).map(|_| Err(made_to_fail())).collect();
        let rest: Vec<_> = (failing..count).collect();
        if let Some(rest) = input.select(&rest) {
            let mut output = self.next.handle(&rest).await;
            let handled = I::results(&mut output).iter_mut();
            results.extend(handled.map(|result| std::mem::replace(result, Ok(Outcome::Ack))));
        }
        let mut results = results.into_iter();
        input.output(|_| results.next().unwrap_or_else(|| Err(made_to_fail())))
    }
}

fn made_to_fail() -> HandlerError {
    HandlerError::new(Error::new(ErrorKind::Other, "made to fail by the test"))
}
