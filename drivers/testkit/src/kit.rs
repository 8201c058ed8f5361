//! What a case works with.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{
    Acknowledgement, AnyDriver, Bus, Capabilities, Clock, Driver, Message, Order, ReadOptions,
    StartFrom, StreamName, SubscriptionBuilder, WriteError, Writer, ksuid,
};
use tokio::time::timeout;

use crate::failure::{Checked, fail};
use crate::ledger::{Budget, Ledger};
use crate::lock::lock;
use crate::tap::Tap;
use crate::{Harness, Profile, Scale};

/// What a case works with: the harness, fresh streams, and the driver's declared capabilities.
pub(crate) struct Kit {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) capabilities: Capabilities,
    pub(crate) profile: Profile,
    pub(crate) clock: Clock,
    case: &'static str,
    scale: Scale,
    created: Mutex<Vec<StreamName>>,
}

/// A stream and how this case reads it.
pub(crate) struct Target {
    pub(crate) stream: StreamName,
    pub(crate) group: Option<String>,
    start: StartFrom,
    /// Open already, where the driver keeps messages only for subscriptions that are.
    early: Mutex<Option<Tap>>,
}

impl Target {
    pub(crate) fn options(&self) -> Checked<ReadOptions> {
        let mut options = ReadOptions::new(&self.stream)?.start_from(self.start.clone());
        if let Some(group) = &self.group {
            options = options.group(group)?;
        }
        Ok(options)
    }

    /// The group, for cases that need one.
    pub(crate) fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_default()
    }

    /// Reads it.
    pub(crate) fn reading<H, K>(
        &self,
        mut builder: SubscriptionBuilder<AnyDriver, H, K>,
    ) -> SubscriptionBuilder<AnyDriver, H, K> {
        if let Some(group) = &self.group {
            builder = builder.group(group);
        }
        builder.start_from(self.start.clone())
    }

    /// Whether it starts from the earliest message, as a reading process is told.
    pub(crate) fn starts_earliest(&self) -> bool {
        self.start == StartFrom::Earliest
    }
}

impl Kit {
    pub(crate) fn new(
        harness: Arc<dyn Harness>,
        capabilities: Capabilities,
        case: &'static str,
        scale: Scale,
    ) -> Self {
        Self {
            capabilities,
            profile: harness.profile(),
            clock: harness.clock(),
            case,
            scale,
            created: Mutex::default(),
            harness,
        }
    }

    /// A count at this run's scale: a tenth in a quick run, but not below ten.
    pub(crate) fn count(&self, full: usize) -> usize {
        match self.scale {
            Scale::Full => full,
            Scale::Quick => (full / 10).max(full.min(10)),
        }
    }

    /// How long this goes on at this run's scale.
    pub(crate) fn period(&self, full: Duration) -> Duration {
        match self.scale {
            Scale::Full => full,
            Scale::Quick => full / 10,
        }
    }

    /// What one reader must get: each message once, in the order the driver promises.
    pub(crate) fn exact(&self) -> Budget {
        Budget::ONCE.order(self.capabilities.order)
    }

    /// What handlers must get that run at the same time: each message once, in order per key where
    /// the driver promises any order.
    pub(crate) fn exact_per_key(&self) -> Budget {
        Budget::ONCE.order(match self.capabilities.order {
            Order::None => Order::None,
            _ => Order::PerKey,
        })
    }

    /// Whether messages are acknowledged one by one.
    pub(crate) fn individual(&self) -> bool {
        self.capabilities.acknowledgement == Acknowledgement::Individual
    }

    /// How many keys messages must have so that all can be in flight at once: one each, or, where
    /// an acknowledgement is a position, one, so that all are in one partition.
    pub(crate) fn keys_in_flight(&self, count: usize) -> usize {
        if self.individual() { count } else { 1 }
    }

    pub(crate) fn quiet(&self) -> Duration {
        self.profile.quiet
    }

    pub(crate) fn patience(&self) -> Duration {
        self.profile.patience
    }

    /// A driver connected anew.
    pub(crate) async fn open(&self) -> Checked<AnyDriver> {
        Ok(self.harness.open().await?)
    }

    /// The name of a stream that does not exist.
    pub(crate) fn stream_name(&self) -> Checked<StreamName> {
        let name = StreamName::new(self.harness.stream_name(self.case))?;
        self.remember(&name);
        Ok(name)
    }

    /// A fresh stream.
    pub(crate) async fn stream(&self) -> Checked<StreamName> {
        let name = self.stream_name()?;
        self.harness.create(&name).await?;
        Ok(name)
    }

    /// The stream's dead letters, fresh too.
    pub(crate) async fn dead_letters(&self, stream: &StreamName) -> Checked<StreamName> {
        let name = stream.dead_letters()?;
        self.remember(&name);
        self.harness.create(&name).await?;
        Ok(name)
    }

    fn remember(&self, name: &StreamName) {
        lock(&self.created).push(name.clone());
    }

    /// Removes the streams of this case.
    pub(crate) async fn clean(&self) {
        let streams = std::mem::take(&mut *lock(&self.created));
        for stream in streams {
            // What cannot be removed has a name nobody else uses.
            let _ = timeout(self.patience(), self.harness.remove(&stream)).await;
        }
    }

    /// A group that no other case uses.
    pub(crate) fn group_name(&self) -> Checked<String> {
        Ok(format!("kit-{}-{}", self.case, ksuid()?))
    }

    /// A fresh stream that a fresh group is to read from its start, or a reader without a group
    /// where there are none. It may be written to right away.
    pub(crate) async fn target(&self) -> Checked<Target> {
        let stream = self.stream().await?;
        self.target_of(stream).await
    }

    /// As [`target`](Kit::target), of a stream there is.
    pub(crate) async fn target_of(&self, stream: StreamName) -> Checked<Target> {
        let group = if self.capabilities.groups {
            Some(self.group_name()?)
        } else {
            None
        };
        let keeps = self.capabilities.keeps_before_group;
        let start = if keeps && self.capabilities.start.earliest {
            StartFrom::Earliest
        } else {
            StartFrom::Default
        };
        let target = Target {
            stream,
            group,
            start,
            early: Mutex::default(),
        };
        if !keeps {
            let mut tap = self.tap(&self.open().await?, &target).await?;
            if target.group.is_some() {
                // The group exists from now on.
                tap.close().await?;
            } else {
                *lock(&target.early) = Some(tap);
            }
        }
        Ok(target)
    }

    /// Subscribes.
    pub(crate) async fn tap(&self, driver: &AnyDriver, target: &Target) -> Checked<Tap> {
        let early = lock(&target.early).take();
        match early {
            Some(tap) => Ok(tap),
            None => self.tap_with(driver, &target.options()?).await,
        }
    }

    /// Subscribes as the options say.
    pub(crate) async fn tap_with(&self, driver: &AnyDriver, options: &ReadOptions) -> Checked<Tap> {
        match timeout(self.patience(), driver.reader().subscribe(options)).await {
            Ok(subscription) => Ok(Tap::new(subscription?, self.patience())),
            Err(_) => fail!("subscribing took longer than {:?}", self.patience()),
        }
    }

    /// A bus on a driver connected anew.
    pub(crate) async fn bus(&self) -> Checked<Bus> {
        Ok(self.bus_on(self.open().await?))
    }

    /// A bus on a driver.
    pub(crate) fn bus_on(&self, driver: AnyDriver) -> Bus {
        match Bus::builder(driver).clock(self.clock).build() {
            Ok(bus) => bus,
            Err(error) => unreachable!("no event was registered that could fail: {error}"),
        }
    }

    /// Writes the messages and starts the bus, in the order that loses nothing on this driver.
    pub(crate) async fn write_and_start(&self, bus: &Bus, messages: &[Message]) -> Checked {
        let kept = self.capabilities.keeps_before_group || self.capabilities.groups;
        if kept {
            self.write(&**bus.publisher().writer(), messages).await?;
        }
        bus.start().await?;
        if !kept {
            self.write(&**bus.publisher().writer(), messages).await?;
        }
        Ok(())
    }

    /// Writes in batches of a hundred; all of it must succeed.
    pub(crate) async fn write(&self, writer: &dyn Writer, messages: &[Message]) -> Checked {
        for batch in messages.chunks(100) {
            self.write_once(writer, batch).await??;
        }
        Ok(())
    }

    /// Writes one batch the way the core does: at once where the driver can.
    pub(crate) async fn write_once(
        &self,
        writer: &dyn Writer,
        batch: &[Message],
    ) -> Checked<Result<(), WriteError>> {
        if let Some(result) = writer.try_write(batch) {
            return Ok(result);
        }
        match timeout(self.patience(), writer.write(batch)).await {
            Ok(result) => Ok(result),
            Err(_) => fail!(
                "writing {} messages took longer than {:?}",
                batch.len(),
                self.patience()
            ),
        }
    }

    /// Writes until it is written: what failed and may succeed later is written again.
    pub(crate) async fn write_stubbornly(
        &self,
        writer: &dyn Writer,
        messages: &[Message],
    ) -> Checked {
        let mut left = messages.to_vec();
        while !left.is_empty() {
            let batch = &left[..left.len().min(100)];
            let failed: Vec<_> = match self.write_once(writer, batch).await? {
                Ok(()) => Vec::new(),
                Err(error) if error.is_retryable() => {
                    error.indices().map(|i| batch[i].clone()).collect()
                }
                Err(error) => return Err(error.into()),
            };
            if !failed.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            left.splice(..batch.len(), failed);
        }
        Ok(())
    }

    /// Messages for a stream, spread over `keys` keys.
    pub(crate) fn messages(
        &self,
        stream: &StreamName,
        count: usize,
        keys: usize,
    ) -> Checked<Vec<Message>> {
        (0..count)
            .map(|i| {
                let message = Message::builder(stream)
                    .key(format!("key-{}", i % keys.max(1)))
                    .header("number", i.to_string())
                    .content_type("text/plain")
                    .data(format!("{} {i}", self.case))
                    .build()?;
                Ok(message)
            })
            .collect()
    }

    /// Waits until the condition holds; a failure that says what was waited for otherwise.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> Checked {
        let check = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        self.within(what, self.patience(), check).await
    }

    /// Waits until so many different messages have arrived; a failure that says what was waited for
    /// if nothing more does.
    pub(crate) async fn until_reached(&self, what: &str, ledger: &Ledger, count: usize) -> Checked {
        if ledger.reached(count, self.patience()).await {
            return Ok(());
        }
        fail!(
            "{} messages arrived and then nothing for {:?}: waited in vain until {what}",
            ledger.distinct(),
            self.patience()
        )
    }

    /// Waits for a future; a failure that says what was waited for if it takes too long.
    pub(crate) async fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Checked<T> {
        match timeout(limit, future).await {
            Ok(output) => Ok(output),
            Err(_) => fail!("waited {limit:?} in vain until {what}"),
        }
    }

    /// Shuts a bus down with a generous deadline.
    pub(crate) async fn shutdown(&self, bus: &Bus) -> Checked<streams_core::RunReport> {
        let deadline = self.patience();
        let report = self
            .within(
                "the bus has shut down",
                deadline + Duration::from_secs(5),
                bus.shutdown(deadline),
            )
            .await?;
        if let Some(error) = &report.writer_error {
            fail!("closing the writer at shutdown failed: {error}");
        }
        Ok(report)
    }
}

/// How long the lease of a fresh delivery lasts.
pub(crate) fn lease_of(delivery: &streams_core::Delivery) -> Checked<Duration> {
    const LONGEST: Duration = Duration::from_secs(6);
    let Some(until) = delivery.lease else {
        fail!(
            "the driver has the capability `leases` and a delivery does not say until when it is leased"
        );
    };
    let lease = until.saturating_duration_since(tokio::time::Instant::now());
    if lease > LONGEST {
        fail!(
            "the lease is {lease:?}; set the harness's driver to {LONGEST:?} at most, for the kit waits for its end"
        );
    }
    Ok(lease)
}
