//! Transactions: a batch that is all or nothing, and handling that counts once.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use streams_core::{
    AnyDriver, Backoff, Bus, Context, Delivery, Driver, Error, ErrorKind, FailurePolicy,
    HandlerError, Message, MessageId, Outcome, Result, StreamName, Subscription, TransactionPart,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::publish::unwritable;
use crate::failure::{Checked, ensure, fail};
use crate::kit::{Kit, Target};
use crate::ledger::{Budget, Ledger};
use crate::lock::lock;
use crate::process::{Orders, Said, Work};

/// Between a subscription's transactions, such that the cases see many of them.
const COMMIT_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) async fn transaction(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let writer = driver.writer();
    let mut targets = Vec::new();
    for _ in 0..3 {
        let target = kit.target().await?;
        targets.push((target, Ledger::default()));
    }
    // Four keys in each of three streams, in turn.
    let batch = || -> Checked<Vec<Message>> {
        let mut all = Vec::new();
        for (target, _) in &targets {
            all.push(kit.messages(&target.stream, 8, 4)?);
        }
        Ok((0..8)
            .flat_map(|i| all.iter().map(move |own| own[i].clone()))
            .collect())
    };
    let commit = async |batch: &[Message]| {
        let write = writer.write_in_transaction(batch);
        kit.within("a transaction is over", kit.patience(), write)
            .await
    };
    for (what, bad) in unwritable(kit, &targets[0].0.stream)? {
        let mut spoilt = batch()?;
        let at = spoilt.len() / 2;
        spoilt.insert(at, bad);
        let Err(error) = commit(&spoilt).await? else {
            fail!("a transaction with {what} was written without an error");
        };
        ensure!(
            !error.is_retryable(),
            "a transaction with {what} is reported as worth retrying: {error:?}"
        );
        let index = error.context().find(|(name, _)| *name == "index");
        ensure!(
            index.is_some_and(|(_, index)| index == at.to_string()),
            "a transaction with {what} at {at} failed, and the error does not say `index={at}`: {error}"
        );
    }
    // Those that can be written, some of them at the same time.
    let mut transactions = JoinSet::new();
    for _ in 0..5 {
        let batch = batch()?;
        for (target, ledger) in &targets {
            let own = batch.iter().filter(|m| *m.stream() == target.stream);
            ledger.wrote(&own.cloned().collect::<Vec<_>>());
        }
        let (kit, writer) = (kit.clone(), driver.writer());
        let shared = driver.writer();
        transactions.spawn(async move {
            let (first, second) = batch.split_at(batch.len() / 2);
            let write = writer.write_in_transaction(first);
            kit.within("a transaction is over", kit.patience(), write)
                .await??;
            let write = shared.write_in_transaction(second);
            kit.within("a transaction is over", kit.patience(), write)
                .await??;
            Checked::Ok(())
        });
    }
    while let Some(transaction) = transactions.join_next().await {
        transaction??;
    }
    commit(&[]).await??;
    let late = batch()?;
    writer.close().await?;
    match commit(&late).await? {
        Err(error) if error.kind() == ErrorKind::Closed => {}
        other => fail!("a transaction on a closed writer gave {other:?} instead of `Closed`"),
    }
    for (target, ledger) in &targets {
        let mut tap = kit.tap(&driver, target).await?;
        tap.drain(ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(Budget::ONCE)?;
    }
    Ok(())
}

/// What comes of a message: the same under another id, for another stream.
pub(crate) fn copy_of(message: &Message, to: &StreamName) -> Result<Message> {
    message
        .to_builder()
        .id(MessageId::new(format!("{}-copy", message.id()))?)
        .stream(to)
        .build()
}

fn copies(messages: &[Message], to: &StreamName) -> Checked<Vec<Message>> {
    let copies: Result<_> = messages
        .iter()
        .map(|message| copy_of(message, to))
        .collect();
    Ok(copies?)
}

/// A bus that copies from one stream to another.
async fn copying(kit: &Kit, driver: AnyDriver, from: &Target, to: &StreamName) -> Checked<Bus> {
    let bus = kit.bus_on(driver);
    let to = to.clone();
    let subscription = bus.subscribe_stream(&from.stream, move |message, context: Context| {
        let copy = copy_of(&message, &to);
        async move {
            // Some are always under way.
            sleep(Duration::from_millis(fastrand::u64(0..3))).await;
            context.publisher().write(&[copy?]).await?;
            Ok::<_, HandlerError>(())
        }
    });
    from.reading(subscription)
        .concurrency(8)
        .exactly_once()
        .commit_interval(COMMIT_INTERVAL)
        .register()?;
    bus.start().await?;
    Ok(bus)
}

/// Reads what is committed to a stream until the ledger is complete.
fn watch(
    kit: &Arc<Kit>,
    driver: &AnyDriver,
    target: Target,
    ledger: &Arc<Ledger>,
) -> tokio::task::JoinHandle<Checked> {
    let (kit, driver, ledger) = (kit.clone(), driver.clone(), ledger.clone());
    tokio::spawn(async move {
        let mut tap = kit.tap(&driver, &target).await?;
        tap.drain(&ledger, kit.quiet()).await?;
        // What is written once too often comes late.
        tap.drain_quiet(&ledger, kit.quiet()).await?;
        tap.close().await
    })
}

pub(crate) async fn exactly_once(kit: &Arc<Kit>) -> Checked {
    const SITTINGS: usize = 5;
    let (from, to) = (kit.target().await?, kit.target().await?);
    let driver = kit.open().await?;
    let messages = kit.messages(&from.stream, kit.count(2_000), 16)?;
    let ledger = Arc::new(Ledger::of(&copies(&messages, &to.stream)?));
    kit.write(&*driver.writer(), &messages).await?;
    let stream = to.stream.clone();
    let watching = watch(kit, &driver, to, &ledger);
    let mut members = Vec::new();
    for sitting in 1..=SITTINGS {
        members.push(copying(kit, kit.open().await?, &from, &stream).await?);
        let part = (messages.len() * sitting).div_ceil(SITTINGS);
        kit.until_reached("a part of the copies is committed", &ledger, part)
            .await?;
        if members.len() > 1 {
            // It leaves in the midst of its work.
            members.remove(0).shutdown(Duration::ZERO).await;
        }
    }
    watching.await??;
    for member in &members {
        kit.shutdown(member).await?;
    }
    ledger.check(kit.exact())
}

pub(crate) async fn exactly_once_crash(kit: &Arc<Kit>) -> Checked {
    let (from, to) = (kit.target().await?, kit.target().await?);
    let driver = kit.open().await?;
    let messages = kit.messages(&from.stream, kit.count(1_000), 16)?;
    let ledger = Arc::new(Ledger::of(&copies(&messages, &to.stream)?));
    kit.write(&*driver.writer(), &messages).await?;
    let crashes = kit.count(30);
    if kit.harness.reader_process().is_some() {
        for _ in 0..crashes.div_ceil(10) {
            kill_while_copying(kit, &from, &to.stream).await?;
        }
    } else {
        for _ in 0..crashes {
            drop_while_copying(kit, &driver, &from, &to.stream).await?;
        }
    }
    // Then one that does not crash.
    let stream = to.stream.clone();
    let watching = watch(kit, &driver, to, &ledger);
    let bus = copying(kit, kit.open().await?, &from, &stream).await?;
    watching.await??;
    kit.shutdown(&bus).await?;
    ledger.check(kit.exact())
}

/// Has a process copy, and kills it at some point of its work.
async fn kill_while_copying(kit: &Kit, from: &Target, to: &StreamName) -> Checked {
    let Some(process) = kit.harness.reader_process() else {
        fail!("the harness had a process that reads before");
    };
    let mut reader = process.start(&Orders {
        stream: from.stream.to_string(),
        group: from.group().to_owned(),
        earliest: from.starts_earliest(),
        work: Work::Copy {
            to: to.to_string(),
            commit_interval: COMMIT_INTERVAL,
        },
    })?;
    for _ in 0..fastrand::usize(1..60) {
        // Towards the end there may be nothing more to copy.
        let Ok(said) = tokio::time::timeout(kit.patience(), reader.next()).await else {
            break;
        };
        ensure!(
            matches!(said?, Said::Copied(_)),
            "the process that copies said something else"
        );
    }
    reader.kill().await
}

/// Copies a little and drops the subscription, if it can in the middle of a transaction.
async fn drop_while_copying(
    kit: &Kit,
    driver: &AnyDriver,
    from: &Target,
    to: &StreamName,
) -> Checked {
    let options = from.options()?.exactly_once(true);
    let mut tap = kit.tap_with(driver, &options).await?;
    for _ in 0..fastrand::usize(1..4) {
        let Some(deliveries) = tap.receive_within(10, kit.quiet()).await? else {
            return Ok(());
        };
        let mut parts = parts(kit, deliveries, to)?;
        if !settled(tap.subscription(), &mut parts, fastrand::u32(0..12)).await? {
            return Ok(());
        }
    }
    // One more is taken along, and its transaction comes too late.
    let Some(deliveries) = tap.receive_within(1, kit.quiet()).await? else {
        return Ok(());
    };
    let mut late = parts(kit, deliveries, to)?;
    tap.close().await?;
    let settle = tap.subscription().settle_in_transaction(&mut late);
    let settled = kit
        .within("a late transaction is over", kit.patience(), settle)
        .await?;
    if let Ok(report) = settled {
        ensure!(
            !report.lost.is_empty(),
            "a subscription was closed, settled a delivery after that, and said that it was not lost"
        );
    }
    Ok(())
}

/// Settles in a transaction, but drops the call after a few polls; `false` says that it did.
async fn settled(
    subscription: &mut dyn Subscription,
    parts: &mut Vec<TransactionPart>,
    mut polls: u32,
) -> Checked<bool> {
    let mut settle = subscription.settle_in_transaction(parts);
    let settled = poll_fn(|cx| match settle.as_mut().poll(cx) {
        Poll::Ready(settled) => Poll::Ready(Some(settled)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await;
    match settled {
        // What was lost comes again.
        Some(settled) => settled.map(|_| true).map_err(Into::into),
        None => Ok(false),
    }
}

/// Deliveries and what comes of them, as the runner settles them: a part for each, or for each
/// partition where acknowledgement is by position.
fn parts(kit: &Kit, deliveries: Vec<Delivery>, to: &StreamName) -> Checked<Vec<TransactionPart>> {
    let mut parts: BTreeMap<(u32, u64), TransactionPart> = BTreeMap::new();
    for delivery in deliveries {
        let id = delivery.token.id();
        let alone = if kit.individual() { id.sequence } else { 0 };
        let copy = copy_of(&delivery.message, to)?;
        let settlement = delivery.ack();
        match parts.entry((id.partition, alone)) {
            std::collections::btree_map::Entry::Vacant(part) => {
                part.insert(TransactionPart {
                    settlement,
                    outputs: vec![copy],
                });
            }
            std::collections::btree_map::Entry::Occupied(mut part) => {
                part.get_mut().settlement = settlement;
                part.get_mut().outputs.push(copy);
            }
        }
    }
    Ok(parts.into_values().collect())
}

pub(crate) async fn exactly_once_retry(kit: &Arc<Kit>) -> Checked {
    let (from, to) = (kit.target().await?, kit.target().await?);
    let dead = kit.target_of(kit.dead_letters(&from.stream).await?).await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&from.stream, kit.count(200), 8)?;
    let number: HashMap<_, _> = messages
        .iter()
        .enumerate()
        .map(|(i, m)| (m.id().clone(), i))
        .collect();
    let given_up = |number: usize| number % 10 == 7;
    let (buried, kept): (Vec<_>, Vec<_>) = messages
        .iter()
        .cloned()
        .partition(|m| given_up(number[m.id()]));
    let ledger = Arc::new(Ledger::of(&copies(&kept, &to.stream)?));
    let stream = to.stream.clone();
    let watching = watch(kit, &driver, to, &ledger);
    let bus = kit.bus().await?;
    let tries: Arc<Mutex<HashMap<MessageId, u32>>> = Arc::default();
    let subscription = bus.subscribe_stream(&from.stream, move |message, context: Context| {
        let number = number.get(message.id()).copied().unwrap_or_default();
        let copy = copy_of(&message, &stream);
        let tries = tries.clone();
        async move {
            // First the copy, then the failure: whatever fails, it is not to be seen.
            context.publisher().write(&[copy?]).await?;
            let tried = {
                let mut tries = lock(&tries);
                let tried = tries.entry(message.id().clone()).or_default();
                *tried += 1;
                *tried
            };
            if given_up(number) {
                return Ok(Outcome::dead_letter("the kit gives this one up"));
            }
            if number % 3 == 0 && tried <= 2 {
                let error = Error::new(ErrorKind::Other, "the kit fails this one twice");
                return Err(HandlerError::new(error));
            }
            Ok(Outcome::Ack)
        }
    });
    let policy = FailurePolicy::default().backoff(Backoff::constant(Duration::from_millis(10)));
    from.reading(subscription)
        .on_failure(policy)
        .exactly_once()
        .commit_interval(COMMIT_INTERVAL)
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    watching.await??;
    kit.shutdown(&bus).await?;
    ledger.check(kit.exact_per_key())?;
    let mut tap = kit.tap(&driver, &dead).await?;
    let letters = tap.take(buried.len()).await?;
    for message in &buried {
        let count = letters
            .iter()
            .filter(|letter| letter.message.id() == message.id())
            .count();
        ensure!(
            count == 1,
            "message {} was given up once and is {count} times among the dead letters",
            message.id()
        );
    }
    tap.ack(letters.into_iter().map(|letter| letter.token))
        .await?;
    tap.expect_nothing(kit.quiet(), "all dead letters had come")
        .await?;
    tap.close().await
}
