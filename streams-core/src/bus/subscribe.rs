//! Registering subscriptions.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::Bus;
use crate::event::Event;
use crate::handler::SubscriptionInfo;
use crate::runner::{BatchWorkers, Plan, RunSettings, SingleWorkers, Workers};
use crate::{
    Backoff, Batch, BatchFn, BatchOutcome, Context, Driver, Error, EventFn, FailurePolicy, Handler,
    IntoHandlerResult, IntoStreamName, Message, MessageFn, OptionFor, Ordering, PartitionListener,
    ReadOptions, Result, StartFrom, batch_fn, event_fn, message_fn,
};

/// Marks a subscription whose handler takes one delivery at a time.
#[derive(Debug)]
pub struct SingleHandling;

/// Marks a subscription whose handler takes batches.
#[derive(Debug)]
pub struct BatchHandling;

/// A subscription in the making. It does nothing until [`register`](SubscriptionBuilder::register).
#[must_use = "a subscription does nothing until it is registered with `register`"]
pub struct SubscriptionBuilder<D: Driver, H, K = SingleHandling> {
    bus: Bus<D>,
    options: Result<ReadOptions>,
    settings: RunSettings,
    handler: H,
    listener: Option<Arc<dyn PartitionListener>>,
    kind: PhantomData<K>,
}

impl<D: Driver> Bus<D> {
    /// Subscribes a closure over decoded events of type `E` to a stream. Registers the event under
    /// that stream if it is not registered yet.
    ///
    /// The default group is none; most drivers want one: see
    /// [`group`](SubscriptionBuilder::group).
    pub fn subscribe<E, F, Fut>(
        &self,
        stream: impl IntoStreamName,
        handler: F,
    ) -> SubscriptionBuilder<D, EventFn<E, F>>
    where
        E: Event,
        F: Fn(E, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        let options = stream.into_stream_name().and_then(|stream| {
            if !self.registry().contains::<E>() {
                self.registry().register_to::<E>(&stream)?;
            }
            ReadOptions::new(stream)
        });
        self.builder_of(options, event_fn(handler))
    }

    /// Subscribes a closure over decoded events of type `E` to the stream the event is registered
    /// under, or declares.
    pub fn subscribe_event<E, F, Fut>(&self, handler: F) -> SubscriptionBuilder<D, EventFn<E, F>>
    where
        E: Event,
        F: Fn(E, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        let registry = self.registry();
        let stream = registry.stream_of::<E>().or_else(|not_found| {
            if E::schema().declared_stream().is_none() {
                return Err(not_found);
            }
            registry.register::<E>()?;
            registry.stream_of::<E>()
        });
        self.builder_of(stream.and_then(ReadOptions::new), event_fn(handler))
    }

    /// Subscribes a closure over whole messages.
    pub fn subscribe_stream<F, Fut>(
        &self,
        stream: impl IntoStreamName,
        handler: F,
    ) -> SubscriptionBuilder<D, MessageFn<F>>
    where
        F: Fn(Message, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoHandlerResult> + Send,
    {
        self.builder_of(ReadOptions::new(stream), message_fn(handler))
    }

    /// Subscribes a closure over batches of up to `size` messages. It gets what is there, without
    /// waiting for a batch to fill.
    ///
    /// In order per key, an item that is to be retried takes the later items of its key in the same
    /// batch with it, whatever the handler said of them, so that they come again behind it.
    pub fn subscribe_batch<F, Fut>(
        &self,
        stream: impl IntoStreamName,
        size: usize,
        handler: F,
    ) -> SubscriptionBuilder<D, BatchFn<F>, BatchHandling>
    where
        F: Fn(Batch) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = BatchOutcome> + Send,
    {
        self.subscribe_batch_handler(stream, size, batch_fn(handler))
    }

    /// Subscribes a [`Handler`] of single deliveries.
    pub fn subscribe_handler<H: Handler>(
        &self,
        stream: impl IntoStreamName,
        handler: H,
    ) -> SubscriptionBuilder<D, H> {
        self.builder_of(ReadOptions::new(stream), handler)
    }

    /// Subscribes a [`Handler`] of batches of up to `size` messages.
    pub fn subscribe_batch_handler<H: Handler<Batch>>(
        &self,
        stream: impl IntoStreamName,
        size: usize,
        handler: H,
    ) -> SubscriptionBuilder<D, H, BatchHandling> {
        let mut builder = self.builder_of(ReadOptions::new(stream), handler);
        builder.settings.batch_size = size;
        builder
    }

    fn builder_of<H, K>(
        &self,
        options: Result<ReadOptions>,
        handler: H,
    ) -> SubscriptionBuilder<D, H, K> {
        SubscriptionBuilder {
            bus: self.clone(),
            options,
            settings: RunSettings::default(),
            handler,
            listener: None,
            kind: PhantomData,
        }
    }
}

impl<D: Driver, H, K> SubscriptionBuilder<D, H, K> {
    /// Joins a consumer group: its members share the messages.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.options = self.options.and_then(|options| options.group(group));
        self
    }

    /// Sets where to start when the group has no position yet.
    pub fn start_from(mut self, start: StartFrom) -> Self {
        self.options = self.options.map(|options| options.start_from(start));
        self
    }

    /// Wraps the handler in a layer. The first layer given is the **innermost**: each later one is
    /// around all before it.
    pub fn layer<L: Layer<H>>(self, layer: L) -> SubscriptionBuilder<D, L::Service, K> {
        SubscriptionBuilder {
            bus: self.bus,
            options: self.options,
            settings: self.settings,
            handler: layer.layer(self.handler),
            listener: self.listener,
            kind: PhantomData,
        }
    }

    /// Sets how many handlers run at once; the default is 16.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    /// Sets which messages wait for which; the default is [`Ordering::PerKey`].
    pub fn ordering(mut self, ordering: Ordering) -> Self {
        self.settings.ordering = ordering;
        self
    }

    /// Handles messages of one key in order: [`Ordering::PerKey`], the default, spelled out.
    pub fn ordered_by_key(self) -> Self {
        self.ordering(Ordering::PerKey)
    }

    /// Bounds the messages fetched and not settled; the default is 1024. It also bounds how far the
    /// runner looks past a busy key, and how many come again after a crash. Where acknowledgement is by
    /// position, or in transactions, messages that are handled do not count.
    pub fn max_in_flight(mut self, messages: usize) -> Self {
        self.settings.max_in_flight = messages;
        self
    }

    /// Bounds the bytes of messages fetched and not handled; the default is 64 MiB. It is
    /// exceeded by at most what one fetch brings beyond the size of the messages before it.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_in_flight_bytes = bytes;
        self
    }

    /// Sets how long a handler may take. Past that it is cancelled and counts as failed; the
    /// deadline shows in [`Context::deadline`].
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = Some(timeout);
        self
    }

    /// Sets what becomes of errors no layer has dealt with; the default retries with backoff, then
    /// writes to the dead letters.
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.settings.failure = policy;
        self
    }

    /// Sets the delays between attempts to open a failed subscription anew.
    pub fn reconnect(mut self, backoff: Backoff) -> Self {
        self.settings.reconnect = backoff;
        self
    }

    /// Sets up to which delay a retry waits in this process, holding its place in flight; the
    /// default is 60 s. Longer ones are left to the backend where it can delay and no order is
    /// kept; where it is, they wait here all the same.
    pub fn longest_wait(mut self, delay: Duration) -> Self {
        self.settings.longest_wait = delay;
        self
    }

    /// Sets for how long a delivery's lease is kept up in all; the default is 12 hours. Past that it
    /// runs out, and the handler is cancelled.
    pub fn longest_lease(mut self, duration: Duration) -> Self {
        self.settings.longest_lease = duration;
        self
    }

    /// Sets how long acknowledgements may be gathered before they are sent together; the default is
    /// 5 ms.
    pub fn settle_linger(mut self, linger: Duration) -> Self {
        self.settings.settle_linger = linger;
        self
    }

    /// Sets how long running handlers may finish when their partition goes to another reader; the
    /// default is 5 s.
    pub fn revoke_grace(mut self, grace: Duration) -> Self {
        self.settings.revoke_grace = grace;
        self
    }

    /// Settles each delivery in one transaction with what its handler publishes: whoever reads
    /// committed messages sees both or neither, whatever crashes. From stream to stream each message
    /// then counts exactly once.
    ///
    /// Requires capability [`exactly_once`](crate::Capabilities::exactly_once) of the driver.
    ///
    /// # Behavior
    /// - [`Context::publisher`] does not write. It collects, in order, for that delivery alone (in a
    ///   batch, for that item alone); its confirmation says only that the message is fit to be
    ///   written. Once the handler has returned it refuses with
    ///   [`Closed`](crate::ErrorKind::Closed).
    /// - With [`Ack`](crate::Outcome::Ack) what was collected is written in one transaction with the
    ///   acknowledgement. With anything else it is dropped: a retry begins anew. A dead letter takes
    ///   its place, and is acknowledged in the same way.
    /// - Many deliveries share a transaction; see
    ///   [`commit_interval`](SubscriptionBuilder::commit_interval). What a delivery publishes is in
    ///   the same transaction or an earlier one than what later ones of its key do, unless its lease
    ///   was lost meanwhile, where the driver leases.
    /// - What waits to be committed counts towards
    ///   [`max_in_flight_bytes`](SubscriptionBuilder::max_in_flight_bytes); when half of that is
    ///   taken up, it is committed at once.
    /// - When a transaction fails it is tried again, or the subscription is opened anew and
    ///   everything not committed is handled again. One that can never succeed ends the
    ///   subscription, as [`Bus::failed`] tells.
    ///
    /// # Pitfalls
    /// - Whatever else a handler does is **outside** the transaction and may happen more than once:
    ///   calls to other services and databases, what it publishes through a bus of its own, and what
    ///   a layer writes through a writer of its own.
    /// - Scheduled messages ([`publish_at`](crate::Publisher::publish_at)) cannot be part of it:
    ///   [`Unsupported`](crate::ErrorKind::Unsupported).
    /// - The transaction is the driver's: wrappers around the bus's writer do not see what is
    ///   written in it.
    ///
    /// ```
    /// # use streams_core::{AnyDriver, Bus, Context, Message, Result};
    /// # fn example(bus: Bus<AnyDriver>) -> Result<()> {
    /// bus.subscribe_stream("order.placed", |order: Message, context: Context| async move {
    ///     let invoice = order.to_builder().stream("invoice.due").build()?;
    ///     context.publisher().write(&[invoice]).await?;
    ///     Ok::<_, streams_core::HandlerError>(())
    /// })
    /// .group("billing")
    /// .exactly_once()
    /// .register()
    /// # }
    /// ```
    pub fn exactly_once(mut self) -> Self {
        self.settings.exactly_once = true;
        self
    }

    /// Sets how long finished deliveries of an [exactly-once](SubscriptionBuilder::exactly_once)
    /// subscription wait, so that many share a transaction; the default is 100 ms, the most 30 s.
    /// Readers of committed messages see what was published this much later. A shutdown and the loss
    /// of a partition do not wait for it, and where deliveries are leased it is at most a third of the
    /// lease.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = Some(interval);
        self
    }

    /// Has a listener told which partitions the subscription gets and gives up. One listener: a
    /// second call replaces the first.
    ///
    /// Requires capability [`partitions`](crate::Capabilities::partitions) of the driver.
    pub fn on_partitions(mut self, listener: impl PartitionListener) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Adds options of the driver's own.
    pub fn option<O: OptionFor<D>>(mut self, option: O) -> Self {
        if let Ok(options) = &mut self.options {
            options.driver.insert(option);
        }
        self
    }

    /// Sets an argument of the driver's own by name, as from a configuration file. A name the
    /// driver does not know is an error when the subscription is opened.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Ok(options) = &mut self.options {
            options.driver.set(name, value);
        }
        self
    }

    fn plan<W: Workers>(self, workers: impl FnOnce(Arc<H>) -> W) -> Result<()> {
        let options = self.options?.exactly_once(self.settings.exactly_once);
        let inner = &self.bus.inner;
        let capabilities = inner.reader.capabilities();
        self.settings
            .validate(&options, capabilities)
            .and_then(|()| match &self.listener {
                Some(_) if !capabilities.partitions => Err(Error::unsupported(
                    capabilities.driver,
                    "this driver reports no partitions; leave out `on_partitions`, or use a driver \
                     that does",
                )),
                _ => Ok(()),
            })
            .map_err(|error| error.operation("subscribe").with("stream", &options.stream))?;
        let info = SubscriptionInfo {
            stream: options.stream.clone(),
            group: options.group.clone(),
            publisher: inner.publisher.clone(),
            driver: capabilities.driver,
            clock: inner.clock,
            transactional: options.exactly_once.then(|| {
                let writer = inner.publisher.writer().capabilities();
                writer
                    .clone()
                    .delay(None)
                    .cancel_delayed(false)
                    .list_delayed(false)
            }),
        };
        let plan = Plan {
            options,
            settings: self.settings,
            info: Arc::new(info),
            workers: Arc::new(workers(Arc::new(self.handler))),
            listener: self.listener,
            changed: inner.changed.clone(),
            ended: inner.ended.clone(),
        };
        let mut state = self.bus.lock();
        if state.closed {
            return Err(Error::closed("the bus").operation("subscribe"));
        }
        state.plans.push(plan);
        Ok(())
    }
}

impl<D: Driver, H: Handler<Context>> SubscriptionBuilder<D, H, SingleHandling> {
    /// Registers the subscription. It is opened by [`Bus::start`] or [`Bus::run`].
    ///
    /// # Errors
    /// - [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a setting that cannot be.
    /// - [`InvalidMessage`](crate::ErrorKind::InvalidMessage) for a bad stream or group name.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) for what the driver cannot do.
    /// - [`EventNotFound`](crate::ErrorKind::EventNotFound) for an event without a stream.
    /// - [`Closed`](crate::ErrorKind::Closed) after shutdown.
    pub fn register(self) -> Result<()> {
        self.plan(SingleWorkers)
    }
}

impl<D: Driver, H: Handler<Batch>> SubscriptionBuilder<D, H, BatchHandling> {
    /// Registers the subscription. It is opened by [`Bus::start`] or [`Bus::run`].
    ///
    /// # Errors
    /// As for single handlers; a batch size of 0 is
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig).
    pub fn register(self) -> Result<()> {
        let size = NonZeroUsize::new(self.settings.batch_size);
        match size {
            Some(size) => self.plan(|handler| BatchWorkers(handler, size)),
            None => Err(Error::invalid_config(
                "the batch size is 0; use 1 or more, or subscribe a handler of single messages",
            )
            .operation("subscribe")),
        }
    }
}

impl<D: Driver, H, K> fmt::Debug for SubscriptionBuilder<D, H, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionBuilder")
            .field("options", &self.options)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
