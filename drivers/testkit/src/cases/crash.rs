//! Readers that are killed.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{Driver, Message, MessageId, Outcome};

use crate::failure::{Checked, ensure};
use crate::kit::{Kit, Target, lease_of};
use crate::ledger::{Budget, Ledger};
use crate::process::{Orders, Said, Work};

/// Messages in flight at the crash: some acknowledged, some put off, some held.
struct Crash {
    acknowledge: usize,
    retry: usize,
    retry_after: Duration,
}

impl Crash {
    /// Has a reader take all the messages, settle some, and die. Returns those it did not
    /// acknowledge, and for how long they may yet be leased to it.
    async fn happen(
        self,
        kit: &Arc<Kit>,
        target: &Target,
        all: &[Message],
    ) -> Checked<(Vec<Message>, Duration)> {
        let left = |acknowledged: &[MessageId]| {
            all.iter()
                .filter(|message| !acknowledged.contains(message.id()))
                .cloned()
                .collect::<Vec<_>>()
        };
        let Some(process) = kit.harness.reader_process() else {
            let driver = kit.open().await?;
            let mut tap = kit.tap(&driver, target).await?;
            let mut deliveries = tap.take(all.len()).await?;
            let lease = if kit.capabilities.leases {
                lease_of(&deliveries[0])?
            } else {
                Duration::ZERO
            };
            let mut rest = deliveries.split_off(self.acknowledge);
            let acknowledged: Vec<_> = deliveries.iter().map(|d| d.message.id().clone()).collect();
            tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
                .await?;
            let retried = rest
                .drain(..self.retry)
                .map(|delivery| delivery.token.retry(Some(self.retry_after)));
            tap.settle(retried.collect()).await?;
            drop(tap);
            return Ok((left(&acknowledged), lease));
        };
        let mut reader = process.start(&Orders {
            stream: target.stream.to_string(),
            group: target.group().to_owned(),
            earliest: target.starts_earliest(),
            work: Work::Settle {
                acknowledge: self.acknowledge,
                retry: self.retry,
                retry_after: self.retry_after,
            },
        })?;
        let mut acknowledged = Vec::new();
        for _ in 0..all.len() {
            let said = kit
                .within(
                    "the reading process receives",
                    kit.patience(),
                    reader.next(),
                )
                .await??;
            if let Said::Acknowledged(id) = said {
                acknowledged.push(id);
            }
        }
        reader.kill().await?;
        // Leases of a killed process run out; they are no longer than those the kit may see.
        let lease = if kit.capabilities.leases {
            Duration::from_secs(6)
        } else {
            Duration::ZERO
        };
        Ok((left(&acknowledged), lease))
    }
}

pub(crate) async fn crash_without_close(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 10, kit.keys_in_flight(10))?;
    kit.write(&*driver.writer(), &messages).await?;
    let crash = Crash {
        acknowledge: 3,
        retry: 0,
        retry_after: Duration::ZERO,
    };
    let (left, lease) = crash.happen(kit, &target, &messages).await?;
    ensure!(
        left.len() == 7,
        "the reader was to acknowledge 3 of 10 messages, {} are left",
        left.len()
    );
    let ledger = Ledger::of(&left);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, lease + kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn retry_survives_crash(kit: &Arc<Kit>) -> Checked {
    killed(kit).await?;
    shut_down(kit).await
}

/// Retries wait in the backend, where it can, when the reader is killed.
async fn killed(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 6, 6)?;
    kit.write(&*driver.writer(), &messages).await?;
    let longest = kit.capabilities.delayed_redelivery;
    let crash = Crash {
        acknowledge: 1,
        retry: if longest.is_some() { 3 } else { 0 },
        retry_after: Duration::from_secs(1).min(longest.unwrap_or_default()),
    };
    let (left, lease) = crash.happen(kit, &target, &messages).await?;
    let ledger = Ledger::of(&left);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, lease + kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

/// Retries wait in the runner when the bus is shut down.
async fn shut_down(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 6, 6)?;
    let bus = kit.bus().await?;
    let subscription = bus.subscribe_stream(&target.stream, |_, _| async {
        Outcome::retry_after(Duration::from_secs(1))
    });
    target.reading(subscription).register()?;
    kit.write_and_start(&bus, &messages).await?;
    kit.until("every message waits for its retry", || {
        bus.activity().waiting == messages.len()
    })
    .await?;
    let report = kit.shutdown(&bus).await?;
    ensure!(
        report.acknowledged() == 0,
        "{} messages were acknowledged that nobody handled",
        report.acknowledged()
    );
    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}
