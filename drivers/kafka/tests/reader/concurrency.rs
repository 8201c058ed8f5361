//! Handlers: many keys of one partition at once, slow ones, retries, memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use streams_core::{Bus, Outcome, StartFrom};
use streams_kafka::{KafkaOptions, NewTopics};

use crate::support::{Arrived, brokers, kafka, number, settings, shut_down, topic, until, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_keys_of_one_partition_are_handled_at_once_each_in_order() {
    const KEYS: usize = 100;
    let kafka = kafka().await;
    let stream = topic(&kafka, "keys", &NewTopics::new(1)).await;
    write(&kafka, &stream, 20 * KEYS, KEYS).await;
    let bus = Bus::new(kafka);
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let orders = Arc::new(Mutex::new(HashMap::<usize, Vec<usize>>::new()));
    let (now, peak, seen) = (running.clone(), most.clone(), orders.clone());
    bus.subscribe_stream(&stream, move |message, _| {
        let (now, peak, seen) = (now.clone(), peak.clone(), seen.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            let number = number(&message);
            seen.lock()
                .unwrap()
                .entry(number % KEYS)
                .or_default()
                .push(number);
            now.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .group(stream.as_str())
    .concurrency(KEYS)
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let handled = || orders.lock().unwrap().values().map(Vec::len).sum::<usize>();
    until("all were handled", || handled() >= 20 * KEYS).await;
    shut_down(&bus).await;
    assert_eq!(most.load(Ordering::SeqCst), KEYS);
    for (key, numbers) in &*orders.lock().unwrap() {
        let expected: Vec<_> = (0..20).map(|i| key + i * KEYS).collect();
        assert_eq!(numbers, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_delay_holds_up_its_key_alone() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "delay", &NewTopics::new(1)).await;
    write(&kafka, &stream, 300, 30).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    let handler = arrived.clone();
    bus.subscribe_stream(&stream, move |message, context| {
        let arrived = handler.clone();
        async move {
            if number(&message) == 0 && context.attempt() == 1 {
                return Outcome::Retry {
                    after: Some(Duration::from_secs(2)),
                };
            }
            arrived.add(&message);
            Outcome::Ack
        }
    })
    .group(stream.as_str())
    .register()
    .unwrap();
    let started = Instant::now();
    bus.start().await.unwrap();
    // All but the ten of its key, long before it is due.
    until("all other keys are done", || arrived.distinct() >= 290).await;
    assert!(!arrived.all().contains(&0));
    arrived.wait(300).await;
    assert!(started.elapsed() >= Duration::from_secs(2));
    let of_key: Vec<_> = arrived.all().into_iter().filter(|n| n % 30 == 0).collect();
    assert_eq!(of_key, (0..10).map(|i| i * 30).collect::<Vec<_>>());
    shut_down(&bus).await;
    assert_eq!(
        kafka.committed(stream.as_str(), &stream).await.unwrap(),
        [Some(300)]
    );
}

/// A handler may take longer than `max.poll.interval.ms`: the partition stays.
#[tokio::test(flavor = "multi_thread")]
async fn slow_handlers_do_not_exceed_the_poll_interval() {
    let kafka = settings(&brokers().await)
        .property("max.poll.interval.ms", "6000")
        .build()
        .unwrap();
    let stream = topic(&kafka, "slow", &NewTopics::new(1)).await;
    write(&kafka, &stream, 3, 1).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    let handler = arrived.clone();
    bus.subscribe_stream(&stream, move |message, _| {
        let arrived = handler.clone();
        async move {
            if number(&message) == 0 {
                tokio::time::sleep(Duration::from_secs(9)).await;
            }
            arrived.add(&message);
        }
    })
    .group(stream.as_str())
    // Room for one alone: nothing is taken from the client meanwhile.
    .max_in_flight(1)
    .register()
    .unwrap();
    bus.start().await.unwrap();
    arrived.wait(3).await;
    let report = shut_down(&bus).await;
    assert_eq!(arrived.all(), [0, 1, 2]);
    assert_eq!(report.subscriptions[0].lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_is_bounded_by_the_settings() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "bounded", &NewTopics::new(4)).await;
    write(&kafka, &stream, 20_000, 1000).await;
    let bus = Bus::new(kafka);
    let arrived = Arrived::default();
    let handler = arrived.clone();
    bus.subscribe_stream(&stream, move |message, _| {
        let arrived = handler.clone();
        async move {
            tokio::task::yield_now().await;
            arrived.add(&message);
        }
    })
    .group(stream.as_str())
    .start_from(StartFrom::Earliest)
    .max_in_flight(100)
    .option(KafkaOptions::new().commit_interval(Duration::from_millis(10)))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    until("all were handled", || {
        assert!(bus.activity().in_flight <= 100);
        arrived.all().len() >= 20_000
    })
    .await;
    shut_down(&bus).await;
    assert_eq!(arrived.distinct(), 20_000);
}
