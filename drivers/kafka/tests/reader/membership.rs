//! Members that are pushed out, and members that are slow to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streams_core::{Bus, ErrorKind};
use streams_kafka::{Kafka, KafkaControl, KafkaOptions, NewTopics};
use tokio::sync::Semaphore;

use crate::support::{
    Arrived, PATIENCE, committed, kafka, shut_down, topic, until, write, write_range,
};

/// A second member under a name takes the first one's place for good: the first says so and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_under_a_name_ends_the_first() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "fenced", &NewTopics::new(2)).await;
    write(&kafka, &stream, 100, 10).await;
    let arrived = Arrived::default();
    let join = |control: &KafkaControl| {
        let bus = Bus::new(kafka.clone());
        let arrived = arrived.clone();
        bus.subscribe_stream(&stream, move |message, _| {
            let arrived = arrived.clone();
            async move { arrived.add(&message) }
        })
        .group(stream.as_str())
        .option(KafkaOptions::new().instance_id("the-only").control(control))
        .register()
        .unwrap();
        bus
    };
    let (before, after) = (KafkaControl::new(), KafkaControl::new());
    let first = join(&before);
    first.start().await.unwrap();
    // With nothing left to commit, it is the heartbeat that tells.
    committed(&kafka, stream.as_str(), &stream, 100).await;
    let second = join(&after);
    second.start().await.unwrap();

    let failed = tokio::time::timeout(PATIENCE, first.failed());
    let error = failed.await.expect("the first says that it was pushed out");
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error:?}");
    assert!(
        !error.is_retryable(),
        "it would push the second out in turn"
    );
    assert!(
        error.to_string().contains("taken this one's place"),
        "{error}"
    );

    until("the first has none", || before.partitions().is_empty()).await;
    until("the second has all partitions", || {
        after.partitions() == [0, 1]
    })
    .await;
    write_range(&kafka, &stream, 100..200, 10).await;
    arrived.wait(200).await;
    committed(&kafka, stream.as_str(), &stream, 200).await;
    shut_down(&first).await;
    shut_down(&second).await;
}

/// A handler that does not end keeps its partition no longer than it is allowed to, and its message
/// is delivered to the member that has the partition then.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_hangs_keeps_its_partition_for_the_grace_alone() {
    const GRACE: Duration = Duration::from_millis(500);
    let kafka = kafka().await;
    let stream = topic(&kafka, "hangs", &NewTopics::new(2)).await;
    write(&kafka, &stream, 40, 40).await;
    let join = |gate: &Arc<Semaphore>, arrived: &Arrived, told: &Arc<AtomicUsize>| {
        let bus: Bus<Kafka> = Bus::new(kafka.clone());
        let (gate, arrived, told) = (gate.clone(), arrived.clone(), told.clone());
        bus.subscribe_stream(&stream, move |message, context| {
            let (gate, arrived, told) = (gate.clone(), arrived.clone(), told.clone());
            async move {
                let cancelled = async {
                    context.cancelled().wait().await;
                    told.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    pass = gate.acquire() => pass.unwrap().forget(),
                    () = cancelled => {}
                }
                arrived.add(&message);
            }
        })
        .group(stream.as_str())
        .revoke_grace(GRACE)
        .concurrency(64)
        .register()
        .unwrap();
        bus
    };
    let (stuck, slow, told) = (
        Arc::new(Semaphore::new(0)),
        Arrived::default(),
        Arc::default(),
    );
    let first = join(&stuck, &slow, &told);
    first.start().await.unwrap();
    until("handlers hang", || first.activity().running > 0).await;

    let started = Instant::now();
    let (free, quick) = (Arc::new(Semaphore::new(1000)), Arrived::default());
    let second = join(&free, &quick, &Arc::default());
    second.start().await.unwrap();
    until("the second member has a partition", || quick.distinct() > 0).await;
    let moved = started.elapsed();
    assert!(moved >= GRACE, "the handlers had {moved:?}");
    assert!(
        moved < Duration::from_secs(20),
        "the handlers had {moved:?}"
    );
    until("the handlers are told", || told.load(Ordering::SeqCst) > 0).await;

    // All of the partition that moved is handled there, from its first message on.
    until("its messages are handled", || {
        first.activity().in_flight + quick.distinct() >= 40
    })
    .await;
    // And the rest here, once the handlers go on. What they still say of the other does not count.
    stuck.add_permits(1000);
    committed(&kafka, stream.as_str(), &stream, 40).await;
    let report = shut_down(&first).await;
    shut_down(&second).await;
    let mut all = [slow.all(), quick.all()].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..40).collect::<Vec<_>>());
    assert!(
        slow.all().iter().any(|number| quick.all().contains(number)),
        "one hung there"
    );
    assert_eq!(report.acknowledged(), 40 - quick.all().len() as u64);
}
