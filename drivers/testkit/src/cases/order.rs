//! Order per key, under concurrency.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{Backoff, Error, ErrorKind, FailurePolicy, Key, Message, MessageId};

use crate::failure::{Checked, ensure};
use crate::kit::Kit;
use crate::ledger::Ledger;
use crate::lock::lock;

/// Which keys are being handled, to see two messages of one at the same time.
#[derive(Default)]
struct Overlaps {
    running: Mutex<HashSet<Key>>,
    seen: AtomicUsize,
}

impl Overlaps {
    fn begin(&self, message: &Message) {
        let Some(key) = message.key() else { return };
        let mut running = lock(&self.running);
        if !running.insert(key.clone()) {
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn end(&self, message: &Message) {
        let Some(key) = message.key() else { return };
        lock(&self.running).remove(key);
    }
}

async fn dawdle() {
    for _ in 0..fastrand::u32(0..8) {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn order_per_key(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, kit.count(1_000), 16)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let overlaps = Arc::new(Overlaps::default());
    let subscription = {
        let (ledger, overlaps) = (ledger.clone(), overlaps.clone());
        bus.subscribe_stream(&target.stream, move |message, _| {
            let (ledger, overlaps) = (ledger.clone(), overlaps.clone());
            async move {
                overlaps.begin(&message);
                dawdle().await;
                ledger.arrived(&message);
                overlaps.end(&message);
            }
        })
    };
    target
        .reading(subscription)
        .concurrency(8)
        .ordered_by_key()
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    let overlaps = overlaps.seen.load(Ordering::Relaxed);
    ensure!(
        overlaps == 0,
        "{overlaps} times two messages of one key were handled at the same time"
    );
    ledger.check(kit.exact_per_key())
}

pub(crate) async fn order_across_retry(kit: &Arc<Kit>) -> Checked {
    const KEYS: usize = 16;
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, kit.count(1_000).max(4 * KEYS), KEYS)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let thirds: HashSet<MessageId> = messages[2 * KEYS..3 * KEYS]
        .iter()
        .map(|message| message.id().clone())
        .collect();
    let tries: Arc<Mutex<HashMap<MessageId, usize>>> = Arc::default();
    let subscription = {
        let (ledger, tries) = (ledger.clone(), tries.clone());
        bus.subscribe_stream(&target.stream, move |message, _| {
            let (ledger, tries) = (ledger.clone(), tries.clone());
            let is_third = thirds.contains(message.id());
            async move {
                dawdle().await;
                if is_third {
                    let mut tries = lock(&tries);
                    let count = tries.entry(message.id().clone()).or_default();
                    *count += 1;
                    if *count <= 2 {
                        return Err(Error::new(ErrorKind::Other, "the kit fails this one twice"));
                    }
                }
                ledger.arrived(&message);
                Ok(())
            }
        })
    };
    let policy = FailurePolicy::default().backoff(Backoff::constant(Duration::from_millis(20)));
    target
        .reading(subscription)
        .concurrency(8)
        .ordered_by_key()
        .on_failure(policy)
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    ledger.check(kit.exact_per_key())?;
    let tries = lock(&tries);
    let wrong = tries.values().filter(|count| **count != 3).count();
    ensure!(
        wrong == 0 && tries.len() == KEYS,
        "{wrong} messages that failed twice were not tried three times"
    );
    Ok(())
}

pub(crate) async fn slow_key(kit: &Arc<Kit>) -> Checked {
    const SLOW: usize = 100;
    const EACH: Duration = Duration::from_millis(20);
    // They are written first. Whoever waits for them comes after all of them.
    const LIMIT: usize = SLOW * 3 / 4;
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let slow = kit.messages(&target.stream, SLOW, 1)?;
    let mut others = Vec::new();
    for (i, message) in kit
        .messages(&target.stream, kit.count(300), 30)?
        .into_iter()
        .enumerate()
    {
        others.push(
            message
                .to_builder()
                .key(format!("other-{}", i % 30))
                .build()?,
        );
    }
    let ledger = Arc::new(Ledger::of(&others));
    let (handled, before_last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let subscription = {
        let (ledger, handled, before_last) = (ledger.clone(), handled.clone(), before_last.clone());
        let slow_key = slow[0].key().cloned();
        bus.subscribe_stream(&target.stream, move |message, _| {
            let (ledger, handled) = (ledger.clone(), handled.clone());
            let is_slow = message.key() == slow_key.as_ref();
            if !is_slow {
                before_last.store(handled.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            async move {
                if is_slow {
                    tokio::time::sleep(EACH).await;
                    handled.fetch_add(1, Ordering::SeqCst);
                } else {
                    ledger.arrived(&message);
                }
            }
        })
    };
    target
        .reading(subscription)
        .concurrency(4)
        .ordered_by_key()
        .register()?;
    let mut all = slow;
    all.extend(others);
    kit.write_and_start(&bus, &all).await?;
    ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    ledger.check(kit.exact_per_key())?;
    let waited = before_last.load(Ordering::SeqCst);
    ensure!(
        waited < LIMIT,
        "messages of other keys waited for {waited} of {SLOW} messages of a slow key; {LIMIT} is the \
         limit"
    );
    Ok(())
}
