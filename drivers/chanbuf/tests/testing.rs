//! The helpers for tests of applications, on applications.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::testing::{FailNext, TestBus};
use streams_chanbuf::{Chanbuf, Full};
use streams_core::{
    Batch, Context, ErrorKind, Event, EventRegistry, Message, Outcome, StartFrom, dead_letter,
};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "order")]
struct OrderPlaced {
    order: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "mail.sent")]
struct MailSent {
    order: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "unknown")]
struct Unknown;

/// What handlers did, and when.
#[derive(Clone)]
struct Seen {
    began: Instant,
    all: Arc<Mutex<Vec<(u32, u32, Duration)>>>,
}

impl Seen {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            all: Arc::default(),
        }
    }

    fn add(&self, order: u32, context: &Context) {
        let mut all = self.all.lock().unwrap();
        all.push((order, context.attempt(), self.began.elapsed()));
    }

    /// Order, attempt and seconds.
    fn take(&self) -> Vec<(u32, u32, u64)> {
        let all = std::mem::take(&mut *self.all.lock().unwrap());
        all.into_iter()
            .map(|(order, attempt, at)| (order, attempt, at.as_secs()))
            .collect()
    }
}

fn test_bus() -> TestBus {
    let test = TestBus::new().unwrap();
    test.bus().registry().register::<OrderPlaced>().unwrap();
    test.bus().registry().register::<MailSent>().unwrap();
    test
}

/// A bus whose one handler retries each order that is 100 or more once, after that many seconds.
async fn retrying(test: &TestBus) -> Seen {
    let seen = Seen::new();
    test.bus()
        .subscribe_event({
            let seen = seen.clone();
            move |event: OrderPlaced, context: Context| {
                seen.add(event.order, &context);
                let later = event.order >= 100 && context.attempt() == 1;
                async move {
                    if later {
                        Outcome::retry_after(SECOND * event.order)
                    } else {
                        Outcome::Ack
                    }
                }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    seen
}

#[tokio::test(start_paused = true)]
async fn published_events_are_remembered_whether_or_not_anybody_reads_them() {
    let test = test_bus();
    test.bus()
        .subscribe_event(|event: OrderPlaced, context: Context| async move {
            let mail = MailSent { order: event.order };
            context.publisher().publish(&mail).await.map(|_| ())
        })
        .group("mailer")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    assert_eq!(test.published::<MailSent>().unwrap(), []);
    for order in 0..3 {
        test.bus().publish(&OrderPlaced { order }).await.unwrap();
    }
    test.wait_idle().await;
    let mails: Vec<_> = (0..3).map(|order| MailSent { order }).collect();
    assert_eq!(test.published::<MailSent>().unwrap(), mails);
    let orders: Vec<_> = (0..3).map(|order| OrderPlaced { order }).collect();
    assert_eq!(test.published::<OrderPlaced>().unwrap(), orders);
    assert_eq!(test.published_messages("mail.sent").unwrap().len(), 3);
    assert_eq!(test.published_messages("nothing").unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn asking_for_what_cannot_be_there_is_an_error() {
    let test = test_bus();
    let error = test.published::<Unknown>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventNotFound);
    let other = Message::builder("mail.sent")
        .data("not JSON")
        .build()
        .unwrap();
    test.bus().publisher().write(&[other]).await.unwrap();
    let error = test.published::<MailSent>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    let error = test.published_messages("a b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidMessage);
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_application_stay() {
    let broker = Chanbuf::builder().capacity(1).full(Full::Refuse);
    let registry = EventRegistry::new();
    registry.register::<OrderPlaced>().unwrap();
    let test = TestBus::with(broker, registry).unwrap();
    test.chanbuf()
        .create_group("order.placed", "g", &StartFrom::Latest)
        .unwrap();
    test.bus().publish(&OrderPlaced { order: 0 }).await.unwrap();
    let error = test
        .bus()
        .publish(&OrderPlaced { order: 1 })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(
        test.published::<OrderPlaced>().unwrap().len(),
        1,
        "what was written"
    );
    assert!(TestBus::with(Chanbuf::builder().capacity(0), EventRegistry::new()).is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_handlers_and_not_for_retries() {
    let test = test_bus();
    let seen = retrying(&test).await;
    test.wait_idle().await;
    for order in [100, 1, 2] {
        test.bus().publish(&OrderPlaced { order }).await.unwrap();
    }
    test.wait_idle().await;
    let mut now = seen.take();
    now.sort_unstable();
    assert_eq!(now, [(1, 1, 0), (2, 1, 0), (100, 1, 0)]);
    assert_eq!(seen.began.elapsed(), Duration::ZERO, "no time has gone by");
}

#[tokio::test(start_paused = true)]
async fn idle_does_not_wait_for_what_is_behind_a_retry() {
    let test = test_bus();
    let seen = retrying(&test).await;
    // One key, so the second waits for the first.
    for _ in 0..3 {
        test.bus()
            .publish(&OrderPlaced { order: 100 })
            .await
            .unwrap();
    }
    test.wait_idle().await;
    assert_eq!(seen.take(), [(100, 1, 0)]);
    test.advance(99 * SECOND).await;
    assert_eq!(seen.take(), []);
    test.advance(SECOND).await;
    assert_eq!(seen.take(), [(100, 2, 100), (100, 1, 100)]);
    test.wait_drained().await;
    assert_eq!(seen.take(), [(100, 2, 200), (100, 1, 200), (100, 2, 300)]);
}

#[tokio::test(start_paused = true)]
async fn advancing_handles_what_has_come_due_and_no_more() {
    let test = test_bus();
    let seen = retrying(&test).await;
    for order in [100, 200, 300] {
        test.bus().publish(&OrderPlaced { order }).await.unwrap();
    }
    for order in [1, 2] {
        let event = OrderPlaced { order };
        test.bus()
            .publish_after(&event, 100 * SECOND * order)
            .await
            .unwrap();
    }
    test.wait_idle().await;
    assert_eq!(seen.take().len(), 3);
    for step in 1..=3 {
        test.advance(99 * SECOND).await;
        assert_eq!(seen.take(), []);
        test.advance(SECOND).await;
        let mut came = seen.take();
        came.sort_unstable();
        let at = u64::from(step) * 100;
        let mut expected = vec![(step, 1, at), (step * 100, 2, at)];
        expected.truncate(if step < 3 { 2 } else { 0 });
        if step == 3 {
            expected.push((300, 2, 300));
        }
        assert_eq!(came, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_a_handler_that_takes_its_time() {
    let test = test_bus();
    let seen = Seen::new();
    test.bus()
        .subscribe_event({
            let seen = seen.clone();
            move |event: OrderPlaced, context: Context| {
                let seen = seen.clone();
                async move {
                    tokio::time::sleep(10 * SECOND).await;
                    seen.add(event.order, &context);
                }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus().publish(&OrderPlaced { order: 1 }).await.unwrap();
    test.wait_idle().await;
    assert_eq!(seen.take(), [(1, 1, 10)]);
}

#[tokio::test(start_paused = true)]
async fn drained_skips_ahead_through_retries_and_schedules() {
    let test = test_bus();
    let seen = retrying(&test).await;
    test.bus()
        .publish(&OrderPlaced { order: 500 })
        .await
        .unwrap();
    test.bus()
        .publish_after(&OrderPlaced { order: 1 }, HOUR)
        .await
        .unwrap();
    test.bus()
        .publish_after(&OrderPlaced { order: 200 }, HOUR)
        .await
        .unwrap();
    test.wait_drained().await;
    let expected = [
        (500, 1, 0),
        (500, 2, 500),
        (1, 1, 3600),
        (200, 1, 3600),
        (200, 2, 3800),
    ];
    assert_eq!(seen.take(), expected);
    test.wait_drained().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_scheduled_for_nobody_is_remembered_when_it_is_due() {
    let test = test_bus();
    let began = Instant::now();
    test.bus()
        .publish_after(&MailSent { order: 1 }, 10 * SECOND)
        .await
        .unwrap();
    test.bus()
        .publish_after(&MailSent { order: 2 }, HOUR)
        .await
        .unwrap();
    test.advance(9 * SECOND).await;
    assert_eq!(test.published::<MailSent>().unwrap(), []);
    test.advance(SECOND).await;
    assert_eq!(
        test.published::<MailSent>().unwrap(),
        [MailSent { order: 1 }]
    );
    test.wait_drained().await;
    assert_eq!(began.elapsed(), HOUR);
    assert_eq!(test.published::<MailSent>().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_made_to_fail_as_often_as_asked_and_are_retried() {
    let test = test_bus();
    let (fail, seen) = (FailNext::new(), Seen::new());
    test.bus()
        .subscribe_event({
            let seen = seen.clone();
            move |event: OrderPlaced, context: Context| {
                seen.add(event.order, &context);
                async {}
            }
        })
        .group("g")
        .layer(fail.clone())
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus().publish(&OrderPlaced { order: 1 }).await.unwrap();
    test.wait_idle().await;
    assert_eq!(seen.take(), [(1, 1, 0)], "everything goes through at first");
    fail.fail_next(3);
    test.bus().publish(&OrderPlaced { order: 2 }).await.unwrap();
    test.wait_idle().await;
    assert_eq!(seen.take(), []);
    test.wait_drained().await;
    let later: Vec<_> = seen
        .take()
        .iter()
        .map(|(order, attempt, _)| (*order, *attempt))
        .collect();
    assert_eq!(later, [(2, 4)]);
    // Until the policy gives up.
    fail.fail_next(8);
    test.bus().publish(&OrderPlaced { order: 3 }).await.unwrap();
    test.wait_drained().await;
    assert_eq!(seen.take(), []);
    let dead = test.published_messages("order.placed.dlq").unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        dead[0].headers().get_str(dead_letter::headers::ATTEMPTS),
        Some("8")
    );
    let reason = dead[0]
        .headers()
        .get_str(dead_letter::headers::REASON)
        .unwrap();
    assert!(reason.contains("by the test"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_as_many_fail_as_asked() {
    let test = test_bus();
    let fail = FailNext::new();
    let batches = Arc::new(Mutex::new(Vec::new()));
    test.bus()
        .subscribe_batch("order.placed", 10, {
            let batches = batches.clone();
            move |batch: Batch| {
                let attempts: Vec<_> = batch.iter().map(Context::attempt).collect();
                batches.lock().unwrap().push(attempts);
                async move { batch.ack_all() }
            }
        })
        .group("g")
        .layer(fail.clone())
        .register()
        .unwrap();
    fail.fail_next(3);
    test.chanbuf()
        .create_group("order.placed", "g", &StartFrom::Latest)
        .unwrap();
    let orders: Vec<_> = (0..10).map(|order| OrderPlaced { order }).collect();
    test.bus().publish_all(&orders).await.unwrap();
    test.bus().start().await.unwrap();
    test.wait_drained().await;
    let mut attempts = batches.lock().unwrap().concat();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_handler_knows_its_deadline() {
    let test = test_bus();
    let left = Arc::new(Mutex::new(Vec::new()));
    test.bus()
        .subscribe_event({
            let left = left.clone();
            move |event: OrderPlaced, context: Context| {
                left.lock()
                    .unwrap()
                    .push((context.deadline(), context.time_left()));
                async move {
                    if event.order == 1 && context.attempt() == 1 {
                        tokio::time::sleep(HOUR).await;
                    }
                }
            }
        })
        .group("g")
        .handler_timeout(5 * SECOND)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let began = Instant::now();
    test.bus().publish(&OrderPlaced { order: 1 }).await.unwrap();
    test.wait_drained().await;
    let left = left.lock().unwrap();
    let (first, second) = (left[0], left[1]);
    assert_eq!(
        left.len(),
        2,
        "past its deadline it has failed, and is tried again"
    );
    assert_eq!(first, (Some(began + 5 * SECOND), Some(5 * SECOND)));
    assert!(second.0.unwrap() > began + 10 * SECOND);
    assert_eq!(second.1, Some(5 * SECOND));
}
