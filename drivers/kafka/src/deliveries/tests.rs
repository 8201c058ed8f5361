use std::collections::VecDeque;
use std::future::poll_fn;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::*;

fn items(count: usize, bytes: usize) -> Vec<Item> {
    (0..count).map(|index| Item { index, bytes }).collect()
}

fn failed() -> Option<Failure> {
    let source = KafkaError::MessageProduction(Code::MessageTimedOut);
    Some(Failure::Client(source))
}

impl Deliveries {
    /// Writes, messages and bytes it holds.
    fn held(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.writes.len(), state.messages, state.bytes)
    }
}

#[tokio::test]
async fn a_write_is_over_with_its_last_report_and_names_what_failed() {
    let deliveries = Deliveries::new(100, 10_000);
    let mut reports = deliveries.begin(5, None).unwrap();
    assert_eq!(reports.reserve(&items(5, 33)).await, 5);
    let numbers: Vec<_> = (0..5).map(|index| reports.number(index)).collect();
    for (at, failure) in [(4, failed()), (0, None), (2, failed()), (3, None)] {
        deliveries.report(numbers[at], failure);
    }
    {
        let mut all = std::pin::pin!(reports.all());
        let first = poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "one report has not come");
        deliveries.report(numbers[1], None);
        let failed: Vec<_> = all.await.into_iter().map(|(index, _)| index).collect();
        assert_eq!(failed, [4, 2]);
    }
    drop(reports);
    assert_eq!(deliveries.held(), (0, 0, 0));
}

#[tokio::test]
async fn the_first_failure_is_told_where_asked() {
    let deliveries = Deliveries::new(100, 10_000);
    let mut reports = deliveries.begin(2, None).unwrap();
    reports.reserve(&items(2, 1)).await;
    let numbers = [reports.number(0), reports.number(1)];
    deliveries.report(numbers[1], failed());
    assert_eq!(reports.all_or_failure().await[0].0, 1);
    drop(reports);
    assert_eq!(deliveries.held().0, 1, "its other report has not come");
    deliveries.report(numbers[0], None);
    assert_eq!(deliveries.held(), (0, 0, 0));
}

#[tokio::test]
async fn a_write_dropped_before_it_sent_all_leaves_nothing() {
    let deliveries = Deliveries::new(3, 10_000);
    let mut reports = deliveries.begin(10, None).unwrap();
    assert_eq!(reports.reserve(&items(10, 7)).await, 3);
    let numbers: Vec<_> = (0..3).map(|index| reports.number(index)).collect();
    {
        let rest = items(7, 7);
        let mut more = std::pin::pin!(reports.reserve(&rest));
        let first = poll_fn(|cx| Poll::Ready(more.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "there is no room");
    }
    drop(reports);
    for number in numbers {
        assert_eq!(deliveries.held().0, 1);
        deliveries.report(number, None);
    }
    assert_eq!(deliveries.held(), (0, 0, 0));
    let next = deliveries.begin(1, None).unwrap();
    assert_eq!(next.reserve(&items(1, 1)).await, 1, "nobody has the turn");
}

/// Many writes of any size through little room, reported in any order: room is never exceeded but by
/// one message that is larger than all of it, all end, and nothing is left.
#[tokio::test]
async fn room_is_bounded_and_given_back() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (messages, bytes) = (random.usize(1..20), random.usize(1..500));
        let deliveries = Deliveries::new(messages, bytes);
        let sent = Arc::new(Mutex::new(VecDeque::new()));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (deliveries, sent) = (deliveries.clone(), sent.clone());
                let count = random.usize(1..50);
                let item = |index| Item {
                    index,
                    bytes: random.usize(0..200),
                };
                let items: Vec<_> = (0..count).map(item).collect();
                tokio::spawn(async move {
                    let mut reports = deliveries.begin(items.len(), None).unwrap();
                    let mut rest = &items[..];
                    while !rest.is_empty() {
                        let count = reports.reserve(rest).await;
                        let (_, held, held_bytes) = deliveries.held();
                        assert!(held <= messages, "{held} of {messages}, seed {seed}");
                        assert!(held_bytes <= bytes || held == 1, "seed {seed}");
                        for item in &rest[..count] {
                            let number = reports.number(item.index);
                            sent.lock().unwrap().push_back(number);
                        }
                        rest = &rest[count..];
                    }
                    reports.all().await.len()
                })
            })
            .collect();
        let reporting = tokio::spawn(async move {
            loop {
                let next = {
                    let mut sent = sent.lock().unwrap();
                    let at = random.usize(0..=sent.len().saturating_sub(1));
                    sent.swap_remove_back(at)
                };
                match next {
                    Some(number) => deliveries.report(number, None),
                    None if deliveries.held().0 == 0 => return deliveries.held(),
                    None => tokio::task::yield_now().await,
                }
            }
        });
        for task in tasks {
            assert_eq!(task.await.unwrap(), 0);
        }
        assert_eq!(reporting.await.unwrap(), (0, 0, 0), "seed {seed}");
    }
}
