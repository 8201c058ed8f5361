//! Partitions that come and go.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{Assignment, Delivery, Driver, Received, Settlement};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Checked, ensure, fail};
use crate::kit::{Kit, Target};
use crate::ledger::{Budget, Ledger};
use crate::tap::Tap;

/// A member of a group that checks what it is told of partitions against what it gets of them.
struct Member {
    tap: Tap,
    /// The epoch each partition last came under, and whether it is held now.
    partitions: HashMap<u32, (u32, bool)>,
    /// The last delivery of each partition, settled with the next, or too late.
    kept: HashMap<u32, Delivery>,
}

/// What all members and the case share.
struct Group {
    ledger: Ledger,
    /// For each member, how many partitions it holds.
    held: Vec<AtomicUsize>,
    /// For each member, whether it is to leave.
    leaves: Vec<AtomicBool>,
}

impl Member {
    fn hold(&mut self, assigned: &[Assignment]) -> Checked {
        for one in assigned {
            if let Some((epoch, held)) = self.partitions.get(&one.partition) {
                ensure!(
                    !held,
                    "partition {} was assigned twice and never taken in between",
                    one.partition
                );
                ensure!(
                    one.epoch > *epoch,
                    "partition {} came again under epoch {} after {epoch}; an epoch must rise",
                    one.partition,
                    one.epoch
                );
            }
            self.partitions.insert(one.partition, (one.epoch, true));
        }
        Ok(())
    }

    fn give_up(&mut self, gone: &[Assignment]) -> Checked {
        for one in gone {
            match self.partitions.get_mut(&one.partition) {
                Some((epoch, held)) if *held && *epoch == one.epoch => *held = false,
                other => fail!("{one:?} was taken from a member that has {other:?} of it"),
            }
        }
        Ok(())
    }

    fn holds(&self, one: Assignment) -> bool {
        self.partitions.get(&one.partition) == Some(&(one.epoch, true))
    }

    fn held(&self) -> usize {
        self.partitions.values().filter(|(_, held)| *held).count()
    }

    /// Takes in what is received; settles all but the last of each partition.
    async fn take_in(&mut self, ledger: &Ledger, deliveries: Vec<Delivery>) -> Checked {
        let mut settlements: Vec<Settlement> = Vec::new();
        for delivery in deliveries {
            let assignment = Assignment::of(delivery.token.id());
            ensure!(
                self.holds(assignment),
                "a message of {assignment:?} came to a member that has {:?} of that partition",
                self.partitions.get(&assignment.partition)
            );
            ledger.arrived(&delivery.message);
            let before = self.kept.insert(assignment.partition, delivery);
            settlements.extend(before.map(Delivery::ack));
        }
        self.tap.settle(settlements).await?;
        Ok(())
    }

    /// Settles what it kept of partitions that have gone, which must be too late.
    async fn settle_late(&mut self) -> Checked {
        let (held, gone): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition(|(_, kept)| self.holds(Assignment::of(kept.token.id())));
        self.kept = held;
        let count = gone.len();
        let late = gone.into_values().map(Delivery::ack).collect();
        let lost = self.tap.settle(late).await?.lost.len();
        ensure!(
            lost == count,
            "{count} deliveries of partitions that had gone were settled, {lost} reported as lost"
        );
        Ok(())
    }

    async fn work(mut self, kit: Arc<Kit>, group: Arc<Group>, number: usize) -> Checked {
        let mut out = Vec::new();
        let max = NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN);
        while !group.leaves[number].load(Ordering::Acquire) {
            let receive = self.tap.subscription().receive(max, &mut out);
            let received = timeout(kit.quiet(), receive).await.ok().transpose()?;
            match received {
                None => {}
                Some(Received::Deliveries) => {
                    let deliveries = std::mem::take(&mut out);
                    self.take_in(&group.ledger, deliveries).await?;
                }
                Some(Received::Assigned(assigned)) => self.hold(&assigned)?,
                Some(Received::Revoking(going)) => {
                    self.give_up(&going)?;
                    // Not settled yet: that is too late once more was asked for.
                    group.held[number].store(self.held(), Ordering::Release);
                    continue;
                }
                Some(Received::Lost(gone)) => self.give_up(&gone)?,
                Some(other) => fail!("a member of a group received {other:?}"),
            }
            self.settle_late().await?;
            group.held[number].store(self.held(), Ordering::Release);
        }
        group.held[number].store(0, Ordering::Release);
        self.tap.close().await
    }
}

async fn join(
    kit: &Arc<Kit>,
    target: &Target,
    group: &Arc<Group>,
    number: usize,
) -> Checked<JoinHandle<Checked>> {
    let tap = kit.tap(&kit.open().await?, target).await?;
    let member = Member {
        tap,
        partitions: HashMap::new(),
        kept: HashMap::new(),
    };
    Ok(tokio::spawn(member.work(
        kit.clone(),
        group.clone(),
        number,
    )))
}

/// Publishes until the members hold the partitions like this.
async fn until_shared(
    kit: &Arc<Kit>,
    target: &Target,
    group: &Group,
    what: &str,
    shared: impl Fn(&[usize]) -> bool,
) -> Checked {
    let driver = kit.open().await?;
    let writer = driver.writer();
    let until = Instant::now() + kit.patience();
    loop {
        let messages = kit.messages(&target.stream, 32, 32)?;
        group.ledger.wrote(&messages);
        kit.write(&*writer, &messages).await?;
        let held: Vec<_> = group
            .held
            .iter()
            .map(|held| held.load(Ordering::Acquire))
            .collect();
        if shared(&held) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{what}, and after {:?} the members hold {held:?} partitions",
            kit.patience()
        );
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn assignments(kit: &Arc<Kit>) -> Checked {
    const JOINS: usize = 3;
    let target = kit.target().await?;
    let group = Arc::new(Group {
        ledger: Ledger::default(),
        held: (0..=JOINS).map(|_| AtomicUsize::new(0)).collect(),
        leaves: (0..=JOINS).map(|_| AtomicBool::new(false)).collect(),
    });
    let first = join(kit, &target, &group, 0).await?;
    until_shared(kit, &target, &group, "a group has one member", |held| {
        held[0] > 0
    })
    .await?;
    let all = group.held[0].load(Ordering::Acquire);
    ensure!(
        all > 1,
        "the stream has one partition; have `Harness::create` make more of them"
    );
    // Others come and go, and the first one has less, then all again.
    for number in 1..=JOINS {
        let other = join(kit, &target, &group, number).await?;
        until_shared(kit, &target, &group, "a second member has joined", |held| {
            held[number] > 0 && held[0] + held[number] == all
        })
        .await?;
        group.leaves[number].store(true, Ordering::Release);
        other.await??;
        until_shared(kit, &target, &group, "the second member has left", |held| {
            held[0] == all
        })
        .await?;
    }
    group.ledger.settled(kit.patience()).await;
    group.leaves[0].store(true, Ordering::Release);
    first.await??;
    // What was kept until it was too late comes again.
    group.ledger.check(Budget::ONCE.duplicates(usize::MAX))
}
