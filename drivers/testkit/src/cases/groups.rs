//! Groups share, readers without a group do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{Bus, Driver, ReadOptions};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Checked, ensure, fail};
use crate::kit::{Kit, Target};
use crate::ledger::{Budget, Ledger};

pub(crate) async fn concurrent_subscribe(kit: &Arc<Kit>) -> Checked {
    let members = kit.count(50).min(kit.profile.members).max(2);
    if kit.capabilities.partitions {
        return members_share_partitions(kit, members).await;
    }
    let target = kit.target().await?;
    let driver = kit.open().await?;
    // Keys of their own, so that no order keeps members from working at the same time.
    let messages = kit.messages(&target.stream, members * 20, members * 20)?;
    let ledger = Arc::new(Ledger::of(&messages));
    kit.write(&*driver.writer(), &messages).await?;

    let mut taps = Vec::new();
    for _ in 0..members {
        taps.push(kit.tap(&driver, &target).await?);
    }
    // Nobody goes on before everybody has a message: a member that gets none shows.
    let everybody = Arc::new(Barrier::new(members));
    let busy = Arc::new(AtomicUsize::new(0));
    let mut working = JoinSet::new();
    for mut tap in taps {
        let (kit, ledger, everybody, busy) =
            (kit.clone(), ledger.clone(), everybody.clone(), busy.clone());
        working.spawn(async move {
            let first = tap.one().await?;
            ledger.arrived(&first.message);
            busy.fetch_add(1, Ordering::Relaxed);
            if timeout(kit.patience(), everybody.wait()).await.is_err() {
                fail!(
                    "work is not spread: {} of {members} members have a message, and there are {} more",
                    busy.load(Ordering::Relaxed),
                    ledger.missing()
                );
            }
            let report = tap.settle(vec![first.ack()]).await?;
            ensure!(
                report.lost.is_empty(),
                "a message was taken from a member that was working on it"
            );
            let mut until = Instant::now() + kit.patience();
            while ledger.missing() > 0 && Instant::now() < until {
                let Some(deliveries) = tap.receive_within(1, kit.quiet()).await? else {
                    continue;
                };
                until = Instant::now() + kit.patience();
                deliveries.iter().for_each(|delivery| ledger.arrived(&delivery.message));
                let acks = deliveries.into_iter().map(streams_core::Delivery::ack).collect();
                tap.settle(acks).await?;
            }
            tap.drain_quiet(&ledger, kit.quiet()).await?;
            tap.close().await
        });
    }
    while let Some(member) = working.join_next().await {
        member??;
    }
    ledger.check(Budget::ONCE)
}

/// Members that share partitions join one after another, and what another is to have goes when they
/// ask for more: nobody may stand still, and everybody has work sooner or later.
async fn members_share_partitions(kit: &Arc<Kit>, members: usize) -> Checked {
    let target = Arc::new(kit.target().await?);
    let driver = kit.open().await?;
    let ledger = Arc::new(Ledger::default());
    let worked: Arc<Vec<_>> = Arc::new((0..members).map(|_| AtomicUsize::new(0)).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let mut working = JoinSet::new();
    for member in 0..members {
        let (kit, target, driver) = (kit.clone(), target.clone(), driver.clone());
        let (ledger, worked, is_over) = (ledger.clone(), worked.clone(), is_over.clone());
        working.spawn(async move {
            let mut tap = kit.tap(&driver, &target).await?;
            let mut until = Instant::now() + kit.patience();
            while (!is_over.load(Ordering::Acquire) || ledger.missing() > 0)
                && Instant::now() < until
            {
                let Some(deliveries) = tap.receive_within(16, kit.quiet()).await? else {
                    continue;
                };
                until = Instant::now() + kit.patience();
                worked[member].fetch_add(1, Ordering::Relaxed);
                deliveries
                    .iter()
                    .for_each(|delivery| ledger.arrived(&delivery.message));
                let acks = deliveries
                    .into_iter()
                    .map(streams_core::Delivery::ack)
                    .collect();
                tap.settle(acks).await?;
            }
            tap.close().await
        });
    }
    let idle = || {
        let idle = |count: &&AtomicUsize| count.load(Ordering::Relaxed) == 0;
        worked.iter().filter(idle).count()
    };
    let until = Instant::now() + kit.patience();
    while idle() > 0 && Instant::now() < until {
        let messages = kit.messages(&target.stream, members * 20, members * 20)?;
        ledger.wrote(&messages);
        kit.write(&*driver.writer(), &messages).await?;
        sleep(kit.quiet().min(Duration::from_millis(100))).await;
    }
    is_over.store(true, Ordering::Release);
    while let Some(member) = working.join_next().await {
        member??;
    }
    ensure!(
        idle() == 0,
        "work is not spread: {} of {members} members got no message, though the harness says that \
         {members} can have work at once",
        idle()
    );
    // What was in flight while partitions wandered may come twice.
    ledger.check(Budget::ONCE.duplicates(usize::MAX))
}

pub(crate) async fn groups(kit: &Arc<Kit>) -> Checked {
    let first = kit.target().await?;
    let second = kit.target_of(first.stream.clone()).await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&first.stream, kit.count(50), 8)?;
    kit.write(&*driver.writer(), &messages).await?;
    for target in [first, second] {
        let ledger = Ledger::of(&messages);
        let mut tap = kit.tap(&driver, &target).await?;
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(kit.exact())?;
    }
    Ok(())
}

pub(crate) async fn no_group(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let options = ReadOptions::new(kit.stream().await?)?;
    let mut taps = Vec::new();
    for _ in 0..2 {
        taps.push(kit.tap_with(&driver, &options).await?);
    }
    let messages = kit.messages(&options.stream, kit.count(50), 8)?;
    kit.write(&*driver.writer(), &messages).await?;
    for mut tap in taps {
        let ledger = Ledger::of(&messages);
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(kit.exact())?;
    }
    Ok(())
}

/// In flight at most in each member, and so what partitions that wander may at worst make come again
/// from each.
const IN_FLIGHT: usize = 64;

pub(crate) async fn rebalance(kit: &Arc<Kit>) -> Checked {
    let target = Arc::new(kit.target().await?);
    let driver = kit.open().await?;
    let ledger = Arc::new(Ledger::default());
    let mut members = vec![member(kit, &target, &ledger).await?];

    let period = kit.period(Duration::from_secs(30));
    let publisher = {
        let (kit, target, ledger, writer) =
            (kit.clone(), target.clone(), ledger.clone(), driver.writer());
        tokio::spawn(async move {
            let started = Instant::now();
            while started.elapsed() < period {
                let messages = kit.messages(&target.stream, 10, 10)?;
                ledger.wrote(&messages);
                kit.write_once(&*writer, &messages).await??;
                sleep(Duration::from_millis(10)).await;
            }
            Checked::Ok(())
        })
    };
    let mut changes = 0;
    for step in 0.. {
        if publisher.is_finished() {
            break;
        }
        sleep(period / 30).await;
        changes += members.len();
        // Up to four members, down to one, and so on.
        if step % 6 < 3 {
            members.push(member(kit, &target, &ledger).await?);
        } else {
            kit.shutdown(&members.remove(0)).await?;
        }
    }
    publisher.await??;
    ledger.settled(kit.patience()).await;
    for member in &members {
        kit.shutdown(member).await?;
    }
    let duplicates = if kit.individual() {
        0
    } else {
        changes * IN_FLIGHT
    };
    ledger.check(kit.exact_per_key().duplicates(duplicates))
}

async fn member(kit: &Arc<Kit>, target: &Target, ledger: &Arc<Ledger>) -> Checked<Bus> {
    let bus = kit.bus().await?;
    let ledger = ledger.clone();
    let subscription = bus.subscribe_stream(&target.stream, move |message, _| {
        let ledger = ledger.clone();
        async move {
            // Members that leave do so with messages in flight.
            sleep(Duration::from_millis(2)).await;
            ledger.arrived(&message);
        }
    });
    target
        .reading(subscription)
        .concurrency(4)
        .max_in_flight(IN_FLIGHT)
        .register()?;
    bus.start().await?;
    Ok(bus)
}
