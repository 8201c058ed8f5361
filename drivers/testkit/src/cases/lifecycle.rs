//! Closing, crashing, cancelling, and being slow.

use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{join_all, maybe_done};
use streams_core::{Driver, ErrorKind, Outcome, Received, WriteError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Checked, ensure, fail};
use crate::kit::{Kit, lease_of};
use crate::ledger::{Budget, Ledger};
use crate::tap::Tap;

pub(crate) async fn cancel_receive(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(10_000), 16)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let publisher = {
        let (kit, writer) = (kit.clone(), driver.writer());
        tokio::spawn(async move {
            // Little by little, so that the reader often finds nothing and waits.
            for batch in messages.chunks(50) {
                kit.write_once(&*writer, batch).await??;
                tokio::task::yield_now().await;
            }
            Checked::Ok(())
        })
    };
    let mut tap = kit.tap(&driver, &target).await?;
    for step in 0.. {
        if ledger.missing() == 0 {
            break;
        }
        let max = fastrand::usize(1..=64);
        let deliveries = if step % 3 == 0 {
            // A patient one each now and then: some drivers need a while to fetch.
            match tap.receive_within(max, kit.patience()).await? {
                Some(deliveries) => deliveries,
                None => break, // The ledger's check says what is lost.
            }
        } else {
            impatient(&mut tap, max).await?
        };
        deliveries
            .iter()
            .for_each(|delivery| ledger.arrived(&delivery.message));
        tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
            .await?;
    }
    publisher.await??;
    tap.drain_quiet(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact())
}

/// Receives, but drops the call after a few polls or milliseconds.
async fn impatient(tap: &mut Tap, max: usize) -> Checked<Vec<streams_core::Delivery>> {
    let mut out = Vec::new();
    let max = NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN);
    let mut polls = fastrand::u32(1..4);
    let limit = Duration::from_millis(fastrand::u64(1..4));
    let received = {
        let mut receive = tap.subscription().receive(max, &mut out);
        let few_polls = poll_fn(|cx| match receive.as_mut().poll(cx) {
            Poll::Ready(received) => Poll::Ready(Some(received)),
            Poll::Pending => {
                polls -= 1;
                if polls == 0 {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            }
        });
        timeout(limit, few_polls).await.ok().flatten()
    };
    match received {
        Some(received) => match received? {
            Received::End => fail!("the subscription ended by itself"),
            _ => Ok(out),
        },
        None => {
            ensure!(
                out.is_empty(),
                "a cancelled `receive` had already taken {} messages",
                out.len()
            );
            Ok(out)
        }
    }
}

pub(crate) async fn continue_after_close(kit: &Arc<Kit>) -> Checked {
    const SITTINGS: usize = 5;
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(5_000), 16)?;
    let ledger = Ledger::of(&messages);
    kit.write(&*driver.writer(), &messages).await?;
    for _ in 0..SITTINGS {
        let mut tap = kit.tap(&driver, &target).await?;
        let mut left = messages.len() / SITTINGS;
        while left > 0 {
            let deliveries = tap.receive(left.min(64)).await?;
            left -= deliveries.len();
            deliveries
                .iter()
                .for_each(|delivery| ledger.arrived(&delivery.message));
            tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
                .await?;
        }
        tap.close().await?;
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact())
}

pub(crate) async fn close_gives_back(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, 10, kit.keys_in_flight(10))?;
    kit.write(&*driver.writer(), &messages).await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let mut deliveries = tap.take(messages.len()).await?;
    let lease = if kit.capabilities.leases {
        lease_of(&deliveries[0])?
    } else {
        Duration::ZERO
    };
    let rest = deliveries.split_off(4);
    tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
        .await?;
    // Closed, not dropped: the subscription stays until the others have come again.
    tap.close().await?;
    let ledger = Ledger::default();
    rest.iter()
        .for_each(|delivery| ledger.wrote(std::slice::from_ref(&delivery.message)));
    let mut other = kit.tap(&driver, &target).await?;
    other.drain(&ledger, lease + kit.quiet()).await?;
    other.close().await?;
    ledger.check(Budget::ONCE)
}

/// Whether a write failed for no other reason than that the writer is closed.
fn is_closed(error: &WriteError) -> bool {
    error
        .failures()
        .iter()
        .all(|(_, error)| error.kind() == ErrorKind::Closed)
}

pub(crate) async fn writer_close_flushes(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(100), 16)?;
    let ledger = Ledger::of(&messages);
    let writer = driver.writer();
    // Every write has begun and none has been waited for when the writer is closed.
    let mut writes = pin!(maybe_done(join_all(
        messages.chunks(5).map(|batch| writer.write(batch))
    )));
    poll_fn(|cx| {
        let _ = writes.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    let both = async { tokio::join!(writer.close(), writes.as_mut()) };
    kit.within("the writer is flushed and closed", kit.patience(), both)
        .await?
        .0?;
    let results = writes.take_output().unwrap_or_default();
    for result in results {
        if let Err(error) = result {
            fail!("a write that had begun before the writer was closed failed: {error}");
        }
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn close_is_idempotent(kit: &Arc<Kit>) -> Checked {
    subscription_closes_twice(kit).await?;
    writer_closes_while_writing(kit).await?;
    bus_shuts_down_twice(kit).await
}

async fn subscription_closes_twice(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let mut tap = kit.tap(&driver, &target).await?;
    let nothing = tap.receive_within(1, kit.quiet()).await?;
    ensure!(nothing.is_none(), "a fresh stream has messages");
    tap.close().await?;
    tap.close().await?;
    let mut out = Vec::new();
    let receive = tap.subscription().receive(NonZeroUsize::MIN, &mut out);
    match timeout(kit.patience(), receive).await {
        Ok(Err(_) | Ok(Received::End)) => Ok(()),
        Ok(Ok(received)) => fail!("a closed subscription received {received:?}"),
        Err(_) => {
            fail!("`receive` hangs on a closed subscription; it must fail with `Closed` or end")
        }
    }
}

async fn writer_closes_while_writing(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let writer = driver.writer();
    let ledger = Arc::new(Ledger::default());
    let writes: Vec<_> = kit
        .messages(&target.stream, 20, 20)?
        .into_iter()
        .map(|message| {
            let (kit, writer, ledger) = (kit.clone(), writer.clone(), ledger.clone());
            tokio::spawn(async move {
                match kit
                    .write_once(&*writer, std::slice::from_ref(&message))
                    .await?
                {
                    Ok(()) => ledger.wrote(&[message]),
                    Err(error) => ensure!(
                        is_closed(&error),
                        "a write while the writer closes failed: {error}"
                    ),
                }
                Checked::Ok(())
            })
        })
        .collect();
    let both = async { tokio::join!(writer.close(), writer.close()) };
    let (first, second) = kit
        .within("the writer is closed twice", kit.patience(), both)
        .await?;
    first?;
    second?;
    for write in writes {
        write.await??;
    }
    writer.close().await?;
    let late = kit.messages(&target.stream, 2, 2)?;
    for late in [
        kit.write_once(&*writer, &late).await?,
        writer.write(&late).await,
    ] {
        let Err(error) = late else {
            fail!("a closed writer wrote two messages");
        };
        ensure!(
            is_closed(&error) && error.indices().eq(0..2),
            "a closed writer does not refuse every message with `Closed`: {error}"
        );
    }
    let other = kit.open().await?;
    let mut tap = kit.tap(&other, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

async fn bus_shuts_down_twice(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, kit.count(100), 8)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let subscription = {
        let ledger = ledger.clone();
        bus.subscribe_stream(&target.stream, move |message, _| {
            let ledger = ledger.clone();
            async move { ledger.arrived(&message) }
        })
    };
    target.reading(subscription).register()?;
    kit.write_and_start(&bus, &messages).await?;
    ledger.settled(kit.patience()).await;
    let both = async { tokio::join!(kit.shutdown(&bus), kit.shutdown(&bus)) };
    let (first, second) = both.await;
    let (first, second) = (first?, second?);
    ensure!(
        first == second,
        "two shutdowns report differently:\n{first}\n{second}"
    );
    let acknowledged = usize::try_from(first.acknowledged()).unwrap_or(usize::MAX);
    ensure!(
        acknowledged == messages.len(),
        "{acknowledged} of {} handled messages were acknowledged by the shutdown",
        messages.len()
    );
    let late = kit.messages(&target.stream, 1, 1)?;
    match bus.publisher().write(&late).await {
        Err(error) if is_closed(&error) => {}
        other => fail!("publishing after the shutdown gave {other:?} instead of `Closed`"),
    }
    match bus.start().await {
        Err(error) if error.kind() == ErrorKind::Closed => {}
        other => fail!("starting after the shutdown gave {other:?} instead of `Closed`"),
    }
    ledger.check(Budget::ONCE)
}

pub(crate) async fn close_drains(kit: &Arc<Kit>) -> Checked {
    const RUNNING: usize = 8;
    let count = kit.count(100).max(2 * RUNNING);
    let target = kit.target().await?;
    let messages = kit.messages(&target.stream, count, count)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let bus = kit.bus().await?;
    let started = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let subscription = {
        let (ledger, started, gate) = (ledger.clone(), started.clone(), gate.clone());
        bus.subscribe_stream(&target.stream, move |message, context| {
            let (ledger, started, gate) = (ledger.clone(), started.clone(), gate.clone());
            async move {
                started.fetch_add(1, Ordering::Relaxed);
                let _open = gate.acquire().await;
                if context.is_cancelled() {
                    // The kit shuts down with time to spare: nothing may be cancelled.
                    return Outcome::Retry { after: None };
                }
                ledger.arrived(&message);
                Outcome::Ack
            }
        })
    };
    target
        .reading(subscription)
        .concurrency(RUNNING)
        .max_in_flight(count)
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    kit.until("every message is in flight and 8 handlers run", || {
        started.load(Ordering::Relaxed) == RUNNING && bus.activity().in_flight == count
    })
    .await?;

    let began = Instant::now();
    let shutdown = {
        let (kit, bus) = (kit.clone(), bus.clone());
        tokio::spawn(async move { kit.shutdown(&bus).await })
    };
    let driver = kit.open().await?;
    let mut other = None;
    let mut unstarted = Vec::new();
    if kit.individual() {
        let other = other.insert(kit.tap(&driver, &target).await?);
        // Handlers are still running: what they do not have is free for others already.
        unstarted = other.take(count - RUNNING).await?;
        if kit.capabilities.leases {
            let lease = lease_of(&unstarted[0])?;
            let took = began.elapsed();
            ensure!(
                took < lease,
                "what was not started came after {took:?}: its lease ran out, it was not released"
            );
        }
    } else {
        kit.within("the shutdown begins", kit.patience(), async {
            while bus.start().await.is_ok() {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await?;
        sleep(kit.quiet()).await;
    }
    gate.add_permits(count);
    let report = shutdown.await??;
    let began = started.load(Ordering::Relaxed);
    ensure!(
        began == RUNNING,
        "{} handlers were started after the shutdown began",
        began - RUNNING
    );
    let [one] = &report.subscriptions[..] else {
        fail!(
            "the report has {} subscriptions, not one",
            report.subscriptions.len()
        );
    };
    let counts = [
        one.in_flight_at_shutdown,
        one.finished,
        one.given_back_to_retry,
        one.released,
        one.abandoned,
    ];
    let expected = [count, RUNNING, 0, count - RUNNING, 0].map(|count| count as u64);
    ensure!(
        counts == expected,
        "of in flight, finished, to be retried, released and abandoned the report counts {counts:?}, \
         not {expected:?}"
    );

    // Where partitions are shared, one that joined before would have taken them from the handlers.
    let mut other = match other {
        Some(other) => other,
        None => kit.tap(&driver, &target).await?,
    };
    unstarted
        .iter()
        .for_each(|delivery| ledger.arrived(&delivery.message));
    other
        .ack(unstarted.into_iter().map(|delivery| delivery.token))
        .await?;
    other.drain(&ledger, kit.quiet()).await?;
    other.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn close_deadline(kit: &Arc<Kit>) -> Checked {
    const RUNNING: usize = 4;
    const ALL: usize = 10;
    const DEADLINE: Duration = Duration::from_millis(300);
    const GRACE: Duration = Duration::from_secs(3);
    let target = kit.target().await?;
    let messages = kit.messages(&target.stream, ALL, ALL)?;
    let bus = kit.bus().await?;
    let started = Arc::new(AtomicUsize::new(0));
    let subscription = {
        let started = started.clone();
        bus.subscribe_stream(&target.stream, move |_, _| {
            started.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>()
        })
    };
    target
        .reading(subscription)
        .concurrency(RUNNING)
        .register()?;
    kit.write_and_start(&bus, &messages).await?;
    kit.until("every message is in flight and 4 handlers run", || {
        started.load(Ordering::Relaxed) == RUNNING && bus.activity().in_flight == ALL
    })
    .await?;
    let began = Instant::now();
    let report = kit
        .within(
            "the bus has shut down",
            DEADLINE + GRACE,
            bus.shutdown(DEADLINE),
        )
        .await?;
    let took = began.elapsed();
    ensure!(
        took >= DEADLINE,
        "running handlers had until {DEADLINE:?}, the shutdown was over after {took:?}"
    );
    let counts = (report.abandoned(), report.released(), report.acknowledged());
    ensure!(
        counts == (RUNNING as u64, (ALL - RUNNING) as u64, 0),
        "of {RUNNING} running and {} other messages the report counts (abandoned, released, acknowledged) {counts:?}",
        ALL - RUNNING
    );
    let ledger = Ledger::of(&messages);
    let driver = kit.open().await?;
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn backpressure(kit: &Arc<Kit>) -> Checked {
    const LIMIT: usize = 32;
    let target = kit.target().await?;
    let bus = kit.bus().await?;
    let messages = kit.messages(&target.stream, kit.count(2_000), 64)?;
    let ledger = Arc::new(Ledger::of(&messages));
    let most = Arc::new(AtomicUsize::new(0));
    let subscription = {
        let (ledger, most, bus) = (ledger.clone(), most.clone(), bus.clone());
        bus.clone()
            .subscribe_stream(&target.stream, move |message, _| {
                let (ledger, most, bus) = (ledger.clone(), most.clone(), bus.clone());
                async move {
                    most.fetch_max(bus.activity().in_flight, Ordering::Relaxed);
                    sleep(Duration::from_millis(1)).await;
                    ledger.arrived(&message);
                }
            })
    };
    target
        .reading(subscription)
        .concurrency(4)
        .max_in_flight(LIMIT)
        .register()?;
    bus.start().await?;
    kit.write_stubbornly(&**bus.publisher().writer(), &messages)
        .await?;
    ledger.settled(kit.patience()).await;
    kit.shutdown(&bus).await?;
    let most = most.load(Ordering::Relaxed);
    ensure!(
        most <= LIMIT,
        "{most} messages were in flight at once; the limit is {LIMIT}"
    );
    ledger.check(kit.exact_per_key())
}
