//! Handlers that take longer than a lease.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{Bus, Context, Driver as _, Message};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::support::{GROUP, LEASE, Test, handle, nothing_comes, numbers, pending, text, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_takes_longer_than_its_lease_comes_once() {
    const COUNT: usize = 1_000;
    let test = Test::shared().await;
    let bus = Bus::builder(test.driver()).build().unwrap();
    let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let into = seen.clone();
    bus.subscribe_stream(&test.stream, move |message: Message, context: Context| {
        into.lock()
            .unwrap()
            .push((text(&message), context.attempt()));
        // All of them are read at once, and the last is begun after many leases.
        sleep(5 * LEASE / 1_000)
    })
    .group(GROUP)
    .concurrency(1)
    .max_in_flight(COUNT)
    .register()
    .unwrap();
    test.write(&test.messages(COUNT)).await;
    bus.start().await.unwrap();
    until("all are handled", async || {
        seen.lock().unwrap().len() >= COUNT && pending(&test).await == 0
    })
    .await;
    bus.shutdown(Duration::from_secs(10)).await;
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter().all(|(_, attempt)| *attempt == 1),
        "some came twice"
    );
    let data: Vec<_> = seen.iter().map(|(data, _)| data.clone()).collect();
    assert_eq!(data, numbers(0..COUNT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_hangs_holds_up_neither_leases_nor_others_nor_closing() {
    let test = Test::shared().await;
    let other = Test::at(&test.url);
    let bus = Bus::builder(test.driver()).build().unwrap();
    let (begun, goes_on) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Semaphore::new(0)),
    );
    let (begins, waits) = (begun.clone(), goes_on.clone());
    bus.subscribe_stream(&test.stream, move |_: Message, _: Context| {
        begins.store(true, Ordering::Relaxed);
        let waits = waits.clone();
        async move { waits.acquire().await.map(drop).unwrap_or_default() }
    })
    .group(GROUP)
    .concurrency(1)
    .max_in_flight(20)
    .register()
    .unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let counts = handled.clone();
    bus.subscribe_stream(&other.stream, move |_: Message, _: Context| {
        counts.fetch_add(1, Ordering::Relaxed);
        async {}
    })
    .group(GROUP)
    .register()
    .unwrap();
    test.write(&test.messages(20)).await;
    bus.start().await.unwrap();
    until("it hangs", async || begun.load(Ordering::Relaxed)).await;
    until("it has them all", async || pending(&test).await == 20).await;
    // For longer than a lease: other members get nothing of it, other subscriptions go on.
    let long = Instant::now() + 2 * LEASE;
    let mut member = test
        .driver()
        .reader()
        .subscribe(&test.in_group())
        .await
        .unwrap();
    let mut written = 0;
    while Instant::now() < long {
        nothing_comes(&mut *member).await;
        other.write(&other.messages(5)).await;
        written += 5;
    }
    until("the other stream is handled", async || {
        handled.load(Ordering::Relaxed) == written
    })
    .await;
    let closing = Instant::now();
    let report = bus.shutdown(Duration::from_secs(1)).await;
    assert!(
        closing.elapsed() < Duration::from_secs(10),
        "{:?}",
        closing.elapsed()
    );
    assert_eq!(report.abandoned(), 1, "{report}");
    // What it had not begun is free at once.
    let mut rest = Vec::new();
    while rest.len() < 19 {
        rest.extend(handle(&mut *member, 1).await);
    }
}
