//! Leases: kept while a handler works, lost without harm.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::Driver;
use tokio::time::{Instant, sleep};

use crate::failure::{Checked, ensure};
use crate::kit::{Kit, lease_of};
use crate::ledger::{Budget, Ledger};
use crate::lock::lock;

/// How long a lease of the driver lasts.
async fn lease(kit: &Arc<Kit>) -> Checked<Duration> {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    kit.write(&*driver.writer(), &kit.messages(&target.stream, 1, 1)?)
        .await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let delivery = tap.one().await?;
    let lease = lease_of(&delivery)?;
    tap.ack([delivery.token]).await?;
    tap.close().await?;
    Ok(lease)
}

pub(crate) async fn lease_extension(kit: &Arc<Kit>) -> Checked {
    let lease = lease(kit).await?;
    kept_while_handled(kit, lease).await?;
    told_when_lost(kit, lease).await
}

async fn kept_while_handled(kit: &Arc<Kit>, lease: Duration) -> Checked {
    let target = kit.target().await?;
    let messages = kit.messages(&target.stream, 1, 1)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let begun = Arc::new(AtomicUsize::new(0));
    let cancelled = Arc::new(AtomicUsize::new(0));
    // Two members: if the lease ran out, the other one would get the message.
    let members = [kit.bus().await?, kit.bus().await?];
    for bus in &members {
        let (ledger, begun, cancelled) = (ledger.clone(), begun.clone(), cancelled.clone());
        let subscription = bus.subscribe_stream(&target.stream, move |message, context| {
            let (ledger, begun, cancelled) = (ledger.clone(), begun.clone(), cancelled.clone());
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                sleep(lease.mul_f64(2.5)).await;
                cancelled.fetch_add(usize::from(context.is_cancelled()), Ordering::Relaxed);
                ledger.arrived(&message);
            }
        });
        target.reading(subscription).register()?;
        bus.start().await?;
    }
    kit.write(&**members[0].publisher().writer(), &messages)
        .await?;
    ledger.settled(kit.patience() + 3 * lease).await;
    // If it was to come again, it would by then.
    sleep(lease + kit.quiet()).await;
    for bus in &members {
        kit.shutdown(bus).await?;
    }
    let (begun, cancelled) = (
        begun.load(Ordering::Relaxed),
        cancelled.load(Ordering::Relaxed),
    );
    ensure!(
        begun == 1,
        "a message was handled {begun} times because its handler took longer than the lease"
    );
    ensure!(
        cancelled == 0,
        "a handler was cancelled though its lease was to be extended"
    );
    ledger.check(Budget::ONCE)
}

async fn told_when_lost(kit: &Arc<Kit>, lease: Duration) -> Checked {
    let target = kit.target().await?;
    let messages = kit.messages(&target.stream, 1, 1)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let tries = Arc::new(AtomicUsize::new(0));
    let told: Arc<Mutex<Option<Duration>>> = Arc::default();
    let bus = kit.bus().await?;
    let subscription = {
        let (ledger, told) = (ledger.clone(), told.clone());
        bus.subscribe_stream(&target.stream, move |message, context| {
            let (ledger, tries, told) = (ledger.clone(), tries.clone(), told.clone());
            async move {
                if tries.fetch_add(1, Ordering::Relaxed) == 0 {
                    let began = Instant::now();
                    // The runner may drop the handler when it is told; it is told all the same.
                    let on_drop = Told { began, told };
                    context.cancelled().wait().await;
                    drop(on_drop);
                    return;
                }
                ledger.arrived(&message);
            }
        })
    };
    // Not extended past half of its time.
    target
        .reading(subscription)
        .longest_lease(lease / 2)
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience() + 3 * lease).await;
    kit.shutdown(&bus).await?;
    let told = *lock(&told);
    ensure!(
        told.is_some(),
        "a handler was not told that its lease was lost"
    );
    ledger.check(Budget::ONCE)
}

/// Notes when the handler's wait ended.
struct Told {
    began: Instant,
    told: Arc<Mutex<Option<Duration>>>,
}

impl Drop for Told {
    fn drop(&mut self) {
        lock(&self.told).get_or_insert(self.began.elapsed());
    }
}

pub(crate) async fn lease_lost(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 1, 1)?;
    kit.write(&*driver.writer(), &messages).await?;

    let mut late = kit.tap(&driver, &target).await?;
    let first = late.one().await?;
    let lease = lease_of(&first)?;
    let leased = Instant::now();
    let mut prompt = kit.tap(&driver, &target).await?;
    let Some(mut again) = prompt.receive_within(1, lease + kit.patience()).await? else {
        crate::failure::fail!("a message whose lease of {lease:?} ran out did not come again");
    };
    ensure!(
        leased.elapsed() + kit.profile.tick >= lease,
        "a message leased for {lease:?} came again after {:?}",
        leased.elapsed()
    );

    let id = first.token.id();
    let extended = late.subscription().extend(&[id], lease).await?;
    ensure!(
        extended.lost == [id],
        "extending a lost lease is not reported: {:?}",
        extended.lost
    );
    let report = late.settle(vec![first.ack()]).await?;
    ensure!(
        report.lost == [id],
        "an acknowledgement that came too late is not reported: {:?}",
        report.lost
    );
    drop(late);

    // The late acknowledgement has done nothing: unacknowledged, the message comes once more.
    let again = again.pop();
    drop(prompt);
    drop(again);
    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    if let Some(deliveries) = tap.receive_within(1, lease + kit.patience()).await? {
        deliveries
            .iter()
            .for_each(|delivery| ledger.arrived(&delivery.message));
        tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
            .await?;
        tap.drain_quiet(&ledger, kit.quiet()).await?;
    }
    tap.close().await?;
    ledger.check(Budget::ONCE)
}
