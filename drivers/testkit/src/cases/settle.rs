//! What settling does.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{
    Backoff, Bus, Driver, Error, ErrorKind, FailurePolicy, HandlerResult, Message, MessageId,
    Outcome,
};
use tokio::time::Instant;

use crate::failure::{Checked, ensure, fail};
use crate::kit::{Kit, Target, lease_of};
use crate::layers::{Dedup, Log, Retry};
use crate::ledger::{Budget, Ledger};
use crate::lock::lock;

pub(crate) async fn ack_blocks_redelivery(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(100), kit.keys_in_flight(100))?;
    kit.write(&*driver.writer(), &messages).await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let deliveries = tap.take(messages.len()).await?;
    let lease = match deliveries.first() {
        Some(first) if kit.capabilities.leases => lease_of(first)?,
        _ => Duration::ZERO,
    };
    let ledger = Ledger::of(&messages);
    deliveries
        .iter()
        .for_each(|delivery| ledger.arrived(&delivery.message));
    tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
        .await?;
    tap.close().await?;

    let mut tap = kit.tap(&driver, &target).await?;
    tap.expect_nothing(lease + kit.quiet(), "they were acknowledged")
        .await?;
    // The subscription does read: what is new, of one of their keys, is the first to come.
    let more = kit.messages(&target.stream, 1, 1)?;
    kit.write(&*driver.writer(), &more).await?;
    ledger.wrote(&more);
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact())
}

pub(crate) async fn attempt_count(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    kit.write(&*driver.writer(), &kit.messages(&target.stream, 1, 1)?)
        .await?;
    let mut tap = kit.tap(&driver, &target).await?;
    for attempt in 1..=3 {
        let delivery = tap.one().await?;
        ensure!(
            delivery.attempt == Some(attempt),
            "delivery {attempt} of a message says attempt {:?}",
            delivery.attempt
        );
        tap.settle(vec![delivery.token.retry(None)]).await?;
    }
    let last = tap.one().await?;
    tap.ack([last.token]).await?;
    tap.close().await
}

pub(crate) async fn release(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 5, 5)?;
    kit.write(&*driver.writer(), &messages).await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let deliveries = tap.take(messages.len()).await?;
    let report = tap
        .settle(
            deliveries
                .into_iter()
                .map(|delivery| delivery.token.release())
                .collect(),
        )
        .await?;
    ensure!(
        report.lost.is_empty(),
        "{} deliveries were reported lost when released at once",
        report.lost.len()
    );
    let ledger = Ledger::of(&messages);
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn partial_batch_settle(kit: &Arc<Kit>) -> Checked {
    const ALL: usize = 10;
    const ACKED: usize = 3;
    const RETRIED: usize = 4;
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, ALL, kit.keys_in_flight(ALL))?;
    kit.write(&*driver.writer(), &messages).await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let mut deliveries = tap.take(ALL).await?;
    let lease = if kit.capabilities.leases {
        lease_of(&deliveries[0])?
    } else {
        Duration::ZERO
    };
    let rest = deliveries.split_off(ACKED);
    tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
        .await?;
    let left: Vec<_> = rest
        .iter()
        .map(|delivery| delivery.message.clone())
        .collect();
    if kit.individual() {
        let retried = rest
            .into_iter()
            .take(RETRIED)
            .map(|delivery| delivery.token.retry(None))
            .collect();
        tap.settle(retried).await?;
    }
    drop(tap);

    let ledger = Ledger::of(&left);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, lease + kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn retry_after_error(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, kit.count(50), 8)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let attempts: Arc<Mutex<HashMap<MessageId, Vec<u32>>>> = Arc::default();
    let subscription = {
        let (ledger, attempts) = (ledger.clone(), attempts.clone());
        bus.subscribe_stream(&target.stream, move |message, context| {
            let (ledger, attempts) = (ledger.clone(), attempts.clone());
            async move {
                let mut attempts = lock(&attempts);
                let attempts = attempts.entry(message.id().clone()).or_default();
                attempts.push(context.attempt());
                if attempts.len() <= 2 {
                    return Err(Error::new(
                        ErrorKind::Other,
                        "the kit fails each message twice",
                    ));
                }
                ledger.arrived(&message);
                Ok(())
            }
        })
    };
    let policy = FailurePolicy::default().backoff(Backoff::constant(Duration::from_millis(10)));
    target.reading(subscription).on_failure(policy).register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    ledger.check(kit.exact_per_key())?;
    let attempts = lock(&attempts);
    for (id, attempts) in &*attempts {
        ensure!(
            attempts == &[1, 2, 3],
            "message {id} was handled as attempts {attempts:?}, not 1, 2, 3"
        );
    }
    Ok(())
}

/// Of retry cases, what a delay may be short by: clocks count in milliseconds.
const ROUNDING: Duration = Duration::from_millis(5);

/// A delay in which others should have been handled, and then one in which a slow machine handles
/// them too: a driver that holds them up does so however long it takes.
const SLOWER: [u32; 2] = [1, 5];

pub(crate) async fn retry_delay(kit: &Arc<Kit>) -> Checked {
    let shortest = kit.period(Duration::from_secs(2)).max(4 * kit.profile.tick);
    let count = kit.count(100);
    let (mut others, mut delay) = (0, shortest);
    for times in SLOWER {
        delay = shortest * times;
        others = handled_during_retry(kit, count, delay).await?;
        if others == count - 1 {
            return Ok(());
        }
    }
    fail!(
        "only {others} of {} other messages were handled during the {delay:?} of a delayed retry",
        count - 1
    )
}

/// How many of the other messages are handled before one that is retried with a delay comes again.
async fn handled_during_retry(kit: &Arc<Kit>, count: usize, delay: Duration) -> Checked<usize> {
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, count, count)?;
    let slow = messages[0].id().clone();
    let ledger = Arc::new(Ledger::of(&messages));
    let tries: Arc<Mutex<Vec<Instant>>> = Arc::default();
    // How many others were done when the delayed one came again.
    let others: Arc<Mutex<Option<usize>>> = Arc::default();
    let subscription = {
        let (ledger, tries, others) = (ledger.clone(), tries.clone(), others.clone());
        bus.subscribe_stream(&target.stream, move |message, _| {
            let (ledger, tries, others) = (ledger.clone(), tries.clone(), others.clone());
            let is_slow = *message.id() == slow;
            async move {
                if is_slow {
                    let mut tries = lock(&tries);
                    tries.push(Instant::now());
                    if tries.len() == 1 {
                        return Outcome::retry_after(delay);
                    }
                    lock(&others).get_or_insert(ledger.distinct());
                }
                ledger.arrived(&message);
                Outcome::Ack
            }
        })
    };
    target.reading(subscription).register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience() + delay).await;
    kit.shutdown(&bus).await?;
    ledger.check(Budget::ONCE)?;
    let tries = lock(&tries);
    let [first, second] = tries[..] else {
        fail!(
            "the message to be retried was handled {} times, not twice",
            tries.len()
        );
    };
    let waited = second - first;
    ensure!(
        waited + ROUNDING >= delay,
        "a retry after {delay:?} came after {waited:?}"
    );
    Ok(lock(&others).unwrap_or_default())
}

pub(crate) async fn redelivery_delay(kit: &Arc<Kit>) -> Checked {
    let longest = kit.capabilities.delayed_redelivery.unwrap_or_default();
    let shortest = (4 * kit.profile.tick).max(Duration::from_millis(300));
    let (mut others, mut delay) = (0, shortest);
    for times in SLOWER {
        delay = (shortest * times).min(longest);
        others = received_during_redelivery(kit, delay).await?;
        if others == 9 {
            return Ok(());
        }
    }
    fail!("only {others} of 9 other messages came during the {delay:?} of a delayed redelivery")
}

/// How many of nine others are received before one that is put off comes again.
async fn received_during_redelivery(kit: &Arc<Kit>, delay: Duration) -> Checked<usize> {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 10, 10)?;
    kit.write(&*driver.writer(), &messages[..5]).await?;
    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    let first = tap.one().await?;
    let id = first.message.id().clone();
    let put_off = Instant::now();
    tap.settle(vec![first.token.retry(Some(delay))]).await?;
    kit.write(&*driver.writer(), &messages[5..]).await?;
    loop {
        let delivery = tap.one().await?;
        ledger.arrived(&delivery.message);
        let again = *delivery.message.id() == id;
        tap.ack([delivery.token]).await?;
        if again {
            break;
        }
    }
    let (waited, others) = (put_off.elapsed(), ledger.distinct() - 1);
    ensure!(
        waited + ROUNDING >= delay,
        "a redelivery after {delay:?} came after {waited:?}"
    );
    tap.drain_quiet(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)?;
    Ok(others)
}

pub(crate) async fn batch_handler(kit: &Arc<Kit>) -> Checked {
    const SIZE: usize = 64;
    let target = kit.target().await?;
    let dead = kit
        .target_of(kit.dead_letters(&target.stream).await?)
        .await?;
    let driver = kit.open().await?;
    let bus = kit.bus().await?;
    let count = kit.count(1_000);
    // Keys of their own: an item that is retried takes later ones of its key with it.
    let messages = kit.messages(&target.stream, count, count)?;
    let number: HashMap<_, _> = messages
        .iter()
        .enumerate()
        .map(|(i, m)| (m.id().clone(), i))
        .collect();
    let given_up = |number: usize| number % 10 == 5;
    let ledger = Arc::new(Ledger::default());
    let buried = Ledger::default();
    for (i, message) in messages.iter().enumerate() {
        if given_up(i) {
            buried.wrote(std::slice::from_ref(message));
        } else {
            ledger.wrote(std::slice::from_ref(message));
        }
    }
    let largest = Arc::new(Mutex::new(0));
    let failed: Arc<Mutex<BTreeSet<MessageId>>> = Arc::default();
    let subscription = {
        let (ledger, largest) = (ledger.clone(), largest.clone());
        bus.subscribe_batch(&target.stream, SIZE, move |batch| {
            {
                let mut largest = lock(&largest);
                *largest = batch.len().max(*largest);
            }
            let mut failed = lock(&failed);
            let outcome = batch
                .iter()
                .map(|context| -> HandlerResult {
                    let id = context.message().id();
                    match number.get(id).copied().unwrap_or_default() {
                        i if given_up(i) => Ok(Outcome::dead_letter("the kit gives this one up")),
                        i if i % 10 == 3 && failed.insert(id.clone()) => {
                            Err(Error::new(ErrorKind::Other, "the kit fails this one once").into())
                        }
                        _ => {
                            ledger.arrived(context.message());
                            Ok(Outcome::Ack)
                        }
                    }
                })
                .collect();
            async move { outcome }
        })
    };
    let policy = FailurePolicy::default().backoff(Backoff::constant(Duration::from_millis(10)));
    target.reading(subscription).on_failure(policy).register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience()).await;
    let mut tap = kit.tap(&driver, &dead).await?;
    let expected = (0..count).filter(|i| given_up(*i)).count();
    let letters = tap.take(expected).await?;
    for letter in &letters {
        // What a dead letter adds is another case's concern.
        let original = letter.message.to_builder().stream(&target.stream);
        let headers = messages[0].headers().iter().map(|(name, _)| {
            (
                name.to_owned(),
                letter
                    .message
                    .headers()
                    .get(name)
                    .unwrap_or_default()
                    .to_vec(),
            )
        });
        buried.arrived(&original.headers(headers.collect()).build()?);
    }
    tap.ack(letters.into_iter().map(|letter| letter.token))
        .await?;
    tap.expect_nothing(kit.quiet(), "all dead letters had come")
        .await?;
    tap.close().await?;
    kit.shutdown(&bus).await?;
    let largest = *lock(&largest);
    ensure!(
        largest <= SIZE,
        "a batch handler of {SIZE} got {largest} messages"
    );
    ledger.check(Budget::ONCE)?;
    buried.check(Budget::ONCE)
}

/// What layers saw of one run.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    acknowledged: usize,
    handled: usize,
    failed: usize,
}

/// The innermost layer, and the outermost.
#[derive(Default)]
struct Logs {
    inner: Log,
    outer: Log,
}

pub(crate) async fn layers_wrap_batches(kit: &Arc<Kit>) -> Checked {
    let count = kit.count(200);
    let single = layered(kit, count, |bus, target, handler, logs| {
        let handle = handler.clone();
        let subscription = bus
            .subscribe_stream(&target.stream, move |message, _| {
                let result = handle.handle(&message);
                async move { result }
            })
            .layer(logs.inner.clone())
            .layer(Dedup)
            .layer(Retry(Duration::from_millis(10)))
            .layer(logs.outer.clone());
        Ok(target.reading(subscription).register()?)
    })
    .await?;
    let batch = layered(kit, count, |bus, target, handler, logs| {
        let handle = handler.clone();
        let subscription = bus
            .subscribe_batch(&target.stream, 64, move |batch| {
                let outcome = batch
                    .iter()
                    .map(|context| handle.handle(context.message()))
                    .collect();
                async move { outcome }
            })
            .layer(logs.inner.clone())
            .layer(Dedup)
            .layer(Retry(Duration::from_millis(10)))
            .layer(logs.outer.clone());
        Ok(target.reading(subscription).register()?)
    })
    .await?;
    ensure!(
        single == batch,
        "layers saw {single:?} around single messages and {batch:?} around batches"
    );
    Ok(())
}

/// Fails each message once, then handles it.
struct FailsOnce {
    failed: Mutex<BTreeSet<MessageId>>,
    ledger: Ledger,
}

impl FailsOnce {
    fn handle(&self, message: &Message) -> HandlerResult {
        if lock(&self.failed).insert(message.id().clone()) {
            return Err(Error::new(ErrorKind::Other, "the kit fails each message once").into());
        }
        self.ledger.arrived(message);
        Ok(Outcome::Ack)
    }
}

async fn layered(
    kit: &Arc<Kit>,
    count: usize,
    subscribe: impl FnOnce(&Bus, &Target, &Arc<FailsOnce>, &Logs) -> Checked,
) -> Checked<Seen> {
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, count, count)?;
    let handler = Arc::new(FailsOnce {
        failed: Mutex::default(),
        ledger: Ledger::of(&messages),
    });
    let logs = Logs::default();
    subscribe(&bus, &target, &handler, &logs)?;
    // Every tenth is written twice, for deduplication to catch.
    let mut twice = messages.clone();
    twice.extend(messages.iter().step_by(10).cloned());
    kit.write_and_start(&bus, &twice).await?;
    let all = || logs.outer.acknowledged() == twice.len();
    kit.until("every message, and every copy, is acknowledged", all)
        .await?;
    kit.shutdown(&bus).await?;
    handler.ledger.check(Budget::ONCE)?;
    Ok(Seen {
        acknowledged: logs.outer.acknowledged(),
        handled: logs.inner.acknowledged(),
        failed: logs.inner.failed(),
    })
}
