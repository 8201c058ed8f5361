//! Handlers that fail, and dead letters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use streams_core::dead_letter::{headers, redrive};
use streams_core::{
    AnyDriver, Backoff, Capabilities, ContentType, Delivery, Driver, Error, ErrorKind, Event,
    FailurePolicy, Message, MessageId, Result, Scheduled, Schema, StreamName, WriteError, Writer,
    async_trait, unix_millis,
};
use tokio::time::{Instant, sleep};

use crate::failure::{Checked, ensure, fail};
use crate::kit::Kit;
use crate::ledger::{Budget, Ledger};
use crate::lock::lock;

/// Tries twice, at once, then gives up.
fn twice() -> FailurePolicy {
    FailurePolicy::default()
        .backoff(Backoff::constant(Duration::from_millis(10)))
        .max_attempts(Some(2))
}

fn refusal() -> Error {
    Error::new(ErrorKind::Other, "the kit says no")
}

pub(crate) async fn error_is_not_a_drop(kit: &Arc<Kit>) -> Checked {
    const WATCHED: Duration = Duration::from_millis(1500);
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 1, 1)?;
    let tries = Arc::new(AtomicUsize::new(0));
    let subscription = {
        let tries = tries.clone();
        bus.subscribe_stream(&target.stream, move |_, _| {
            tries.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(refusal()) }
        })
    };
    // No policy: what comes by itself is what is looked at.
    target.reading(subscription).register()?;
    kit.write_and_start(&bus, &messages).await?;
    kit.until("the message is tried", || tries.load(Ordering::Relaxed) > 0)
        .await?;
    let began = Instant::now();
    kit.until("the message is tried twice", || {
        tries.load(Ordering::Relaxed) > 1
    })
    .await?;
    sleep(WATCHED.saturating_sub(began.elapsed())).await;
    let tried = tries.load(Ordering::Relaxed);
    ensure!(
        tried <= 10,
        "a message that fails was tried {tried} times in {WATCHED:?}: a hot loop"
    );
    let report = kit.shutdown(&bus).await?;
    ensure!(
        report.acknowledged() == 0,
        "a message whose handler only fails was acknowledged"
    );
    if !kit.capabilities.groups && !kit.capabilities.shares_without_group {
        return Ok(());
    }
    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn panic_is_contained(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let elsewhere = kit.target().await?;
    let dead = kit
        .target_of(kit.dead_letters(&target.stream).await?)
        .await?;
    let driver = kit.open().await?;
    let bus = kit.bus().await?;
    let mut messages = kit.messages(&target.stream, kit.count(50), 8)?;
    let bad = messages[3].id().clone();
    let all = messages.clone();
    messages.remove(3);
    let ledger = Arc::new(Ledger::of(&messages));
    let subscription = {
        let (ledger, bad) = (ledger.clone(), bad.clone());
        bus.subscribe_stream(&target.stream, move |message, _| {
            let ledger = ledger.clone();
            let is_bad = *message.id() == bad;
            async move {
                assert!(!is_bad, "the kit panics on purpose");
                ledger.arrived(&message);
            }
        })
    };
    target
        .reading(subscription)
        .on_failure(twice())
        .register()?;
    let others = kit.messages(&elsewhere.stream, kit.count(50), 8)?;
    let other_ledger = Arc::new(Ledger::of(&others));
    let subscription = {
        let ledger = other_ledger.clone();
        bus.subscribe_stream(&elsewhere.stream, move |message, _| {
            let ledger = ledger.clone();
            async move { ledger.arrived(&message) }
        })
    };
    elsewhere.reading(subscription).register()?;
    let mut both = all;
    both.extend(others);
    kit.write_and_start(&bus, &both).await?;
    let letter = one_dead_letter(kit, &driver, &dead).await?;
    ledger.settled(kit.patience()).await;
    other_ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    ensure!(
        *letter.id() == bad,
        "the dead letter is message {}, not the one that panicked",
        letter.id()
    );
    ledger.check(Budget::ONCE)?;
    other_ledger.check(Budget::ONCE)
}

/// The one message of the dead letters; a failure if there is none, or more.
async fn one_dead_letter(
    kit: &Arc<Kit>,
    driver: &AnyDriver,
    dead: &crate::kit::Target,
) -> Checked<Message> {
    let mut tap = kit.tap(driver, dead).await?;
    let Delivery { message, token, .. } = tap.one().await?;
    tap.ack([token]).await?;
    tap.expect_nothing(kit.quiet(), "there was to be one dead letter")
        .await?;
    tap.close().await?;
    let reason = message
        .headers()
        .get_str(headers::REASON)
        .unwrap_or_default();
    ensure!(
        !reason.is_empty(),
        "a dead letter has no header `{}`",
        headers::REASON
    );
    Ok(message)
}

/// What the kit publishes as a typed event.
#[derive(Serialize, Deserialize)]
struct Numbered {
    number: usize,
}

impl Event for Numbered {
    fn schema() -> Schema<Self> {
        Schema::json("Numbered")
    }
}

/// Publishes typed events around a poisonous record, and expects all of them, and that one dead.
async fn poisoned(
    kit: &Arc<Kit>,
    poison: impl AsyncFnOnce(&StreamName) -> Checked<Vec<u8>>,
) -> Checked<Message> {
    let target = kit.target().await?;
    let dead = kit
        .target_of(kit.dead_letters(&target.stream).await?)
        .await?;
    let driver = kit.open().await?;
    let bus = kit.bus().await?;
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let subscription = {
        let seen = seen.clone();
        bus.subscribe(&target.stream, move |event: Numbered, _| {
            lock(&seen).push(event.number);
            async {}
        })
    };
    target.reading(subscription).register()?;
    let early = !kit.capabilities.groups && !kit.capabilities.keeps_before_group;
    if early {
        bus.start().await?;
    }
    for number in 0..5 {
        bus.publish_to(&target.stream, &Numbered { number }).await?;
    }
    let data = poison(&target.stream).await?;
    for number in 5..10 {
        bus.publish_to(&target.stream, &Numbered { number }).await?;
    }
    if !early {
        bus.start().await?;
    }
    let letter = one_dead_letter(kit, &driver, &dead).await?;
    kit.until("the events before and after the poison are handled", || {
        let mut seen = lock(&seen).clone();
        seen.sort_unstable();
        seen.iter().copied().eq(0..10)
    })
    .await?;
    let report = kit.shutdown(&bus).await?;
    ensure!(
        letter.data()[..] == data,
        "the dead letter's data differs from the poison's"
    );
    ensure!(
        report.acknowledged() == 10,
        "{} of 10 events were acknowledged",
        report.acknowledged()
    );
    Ok(letter)
}

pub(crate) async fn poison(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let data = b"{\"number\": \xff}".to_vec();
    poisoned(kit, async |stream| {
        let message = Message::builder(stream)
            .content_type(ContentType::JSON)
            .data(data.clone())
            .build()?;
        kit.write(&*driver.writer(), &[message]).await?;
        Ok(data)
    })
    .await?;
    Ok(())
}

pub(crate) async fn foreign_record(kit: &Arc<Kit>) -> Checked {
    let Some(foreign) = kit.harness.foreign() else {
        fail!("the harness had a foreign producer before");
    };
    let data = b"not of this toolkit".to_vec();
    let letter = poisoned(kit, async |stream| {
        foreign.write(stream, &data).await?;
        Ok(data)
    })
    .await?;
    ensure!(
        !letter.id().as_str().is_empty(),
        "a record without an id was given none"
    );
    Ok(())
}

pub(crate) async fn dlq_round_trip(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let dead = kit
        .target_of(kit.dead_letters(&target.stream).await?)
        .await?;
    let driver = kit.open().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, 5, 5)?;
    let bad = messages[2].clone();
    let ledger = Arc::new(Ledger::of(&messages));
    let healed = Arc::new(AtomicBool::new(false));
    let subscription = {
        let (ledger, healed, bad) = (ledger.clone(), healed.clone(), bad.id().clone());
        bus.subscribe_stream(&target.stream, move |message, _| {
            let fails = *message.id() == bad && !healed.load(Ordering::Relaxed);
            let ledger = ledger.clone();
            async move {
                if fails {
                    return Err(refusal());
                }
                ledger.arrived(&as_it_was(&message)?);
                Ok(())
            }
        })
    };
    target
        .reading(subscription)
        .on_failure(twice())
        .register()?;
    let before = unix_millis(kit.clock.now());
    kit.write_and_start(&bus, &messages).await?;
    let letter = one_dead_letter(kit, &driver, &dead).await?;
    story(kit, &letter, &bad, target.group.as_deref(), before)?;

    healed.store(true, Ordering::Relaxed);
    kit.write(&*driver.writer(), &[redrive(&letter)?]).await?;
    ledger.settled(kit.patience()).await;
    // A second copy would come now.
    sleep(kit.quiet()).await;
    kit.shutdown(&bus).await?;
    ledger.check(Budget::ONCE)
}

/// Without the header of a message that was brought back.
fn as_it_was(message: &Message) -> Result<Message> {
    let mut rest = message.headers().clone();
    rest.remove(headers::REDRIVEN);
    message.to_builder().headers(rest).build_received()
}

/// Checks what a dead letter says of itself.
fn story(
    kit: &Kit,
    letter: &Message,
    original: &Message,
    group: Option<&str>,
    before: i64,
) -> Checked {
    let header = |name: &str| {
        letter
            .headers()
            .get_str(name)
            .unwrap_or_default()
            .to_owned()
    };
    let expected = [
        (headers::REASON, refusal().to_string()),
        (headers::ATTEMPTS, "2".to_owned()),
        (headers::STREAM, original.stream().to_string()),
        (headers::ID, original.id().to_string()),
        (headers::GROUP, group.unwrap_or_default().to_owned()),
    ];
    for (name, value) in expected {
        let found = header(name);
        ensure!(
            found == value,
            "a dead letter's header `{name}` is {found:?}, not {value:?}"
        );
    }
    ensure!(
        header(headers::ERROR_CHAIN).contains("the kit says no"),
        "a dead letter does not tell its error's causes"
    );
    let now = unix_millis(kit.clock.now());
    let time = |name: &str| header(name).parse::<i64>().unwrap_or(i64::MIN);
    let (first, last) = (time(headers::FIRST_FAILURE), time(headers::LAST_FAILURE));
    ensure!(
        before <= first && first <= last && last <= now,
        "a dead letter says that it failed from {first} to {last}, which is not between {before} and {now}"
    );
    let same = letter.key() == original.key()
        && letter.data() == original.data()
        && letter.content_type() == original.content_type()
        && unix_millis(letter.time()) == unix_millis(original.time());
    ensure!(
        same,
        "a dead letter differs from its original: {letter:?}, {original:?}"
    );
    Ok(())
}

/// A writer that can write no dead letters while it is down.
struct NoDeadLetters {
    next: Arc<dyn Writer>,
    refused: Arc<AtomicUsize>,
}

impl NoDeadLetters {
    fn refuse(&self, batch: &[Message]) -> Option<WriteError> {
        let letters = batch
            .iter()
            .enumerate()
            .filter(|(_, message)| message.stream().is_dead_letters());
        let failures: Vec<_> = letters
            .map(|(i, _)| {
                (
                    i,
                    Error::new(
                        ErrorKind::Unavailable,
                        "the kit has cut the dead letters off",
                    ),
                )
            })
            .collect();
        self.refused.fetch_add(failures.len(), Ordering::Relaxed);
        (!failures.is_empty()).then(|| WriteError::new(failures))
    }
}

#[async_trait]
impl Writer for NoDeadLetters {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        match self.refuse(batch) {
            Some(error) => Err(error),
            None => self.next.write(batch).await,
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.next.write_at(batch, due).await
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        self.next.cancel(stream, id).await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        self.next.scheduled(stream, limit).await
    }

    async fn flush(&self) -> Result<()> {
        self.next.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.next.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.next.capabilities()
    }
}

pub(crate) async fn dlq_down(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let dead = kit
        .target_of(kit.dead_letters(&target.stream).await?)
        .await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 1, 1)?;
    let tries = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let failing = |bus: &streams_core::Bus| {
        let tries = tries.clone();
        let subscription = bus.subscribe_stream(&target.stream, move |_, _| {
            tries.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(refusal()) }
        });
        target.reading(subscription).on_failure(twice()).register()
    };

    let down = NoDeadLetters {
        next: driver.writer(),
        refused: refused.clone(),
    };
    let bus = kit.bus_on(AnyDriver::new(driver.reader(), Arc::new(down)));
    failing(&bus)?;
    kit.write_and_start(&bus, &messages).await?;
    kit.until("a dead letter is refused twice", || {
        refused.load(Ordering::Relaxed) >= 2
    })
    .await?;
    let report = kit.shutdown(&bus).await?;
    ensure!(
        report.acknowledged() == 0,
        "a message was acknowledged whose dead letter could not be written"
    );
    let before = tries.load(Ordering::Relaxed);

    // The writer is back: the message is delivered again and buried.
    let bus = kit.bus().await?;
    failing(&bus)?;
    bus.start().await?;
    let letter = one_dead_letter(kit, &kit.open().await?, &dead).await?;
    kit.shutdown(&bus).await?;
    ensure!(
        tries.load(Ordering::Relaxed) > before,
        "the message was not delivered again"
    );
    ensure!(
        letter.id() == messages[0].id(),
        "the dead letter is another message: {}",
        letter.id()
    );
    let driver = kit.open().await?;
    // It does not come again: what is written now, of the same key, is the first to come.
    let marker = kit.messages(&target.stream, 1, 1)?;
    kit.write(&*driver.writer(), &marker).await?;
    let ledger = Ledger::of(&marker);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}
