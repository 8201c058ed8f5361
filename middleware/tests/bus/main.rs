//! The layers on a bus, from the publisher to the acknowledgement.

mod context;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use streams_chanbuf::{Backlog, Chanbuf};
use streams_core::dead_letter::{headers, redrive};
use streams_core::{
    Activity, Backoff, Batch, Bus, Capabilities, Claim, Clock, Context, DeduplicationStorage,
    Error, ErrorKind, Message, MessageId, NoopWriter, Ordering, Outcome, Result, Scheduled,
    StreamName, WriteError, Writer, async_trait,
};
use streams_middleware::{
    CircuitBreaker, CorrelationId, DeadLetters, Deduplication, Logging, MokaStorage, Next,
    RateLimit, Retry, Timeout, from_fn,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};
use tower::ServiceBuilder;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(600);

fn bus(driver: &Chanbuf) -> Bus<Chanbuf> {
    Bus::builder(driver.clone())
        .clock(Clock::following_tokio())
        .build()
        .unwrap()
}

fn message(stream: &'static str, data: &'static str) -> Message {
    Message::builder(stream).data(data).build().unwrap()
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(message.data()).unwrap()
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "down for a moment")
}

fn retry(max_attempts: u32) -> Retry {
    Retry::new(Backoff::new(SECOND, 8 * SECOND).jitter(false), max_attempts).unwrap()
}

/// Everything that comes on a stream, through a subscription of its own.
fn collect(bus: &Bus<Chanbuf>, stream: &'static str) -> UnboundedReceiver<Message> {
    let (sender, receiver) = unbounded_channel();
    bus.subscribe_stream(stream, move |message: Message, _| {
        let sender = sender.clone();
        async move { sender.send(message).map_err(|_| down()) }
    })
    .group("collector")
    .register()
    .unwrap();
    receiver
}

async fn next(receiver: &mut UnboundedReceiver<Message>) -> Message {
    tokio::time::timeout(PATIENCE, receiver.recv())
        .await
        .expect("in time")
        .expect("open")
}

/// Waits until everything is acknowledged.
async fn idle(bus: &Bus<Chanbuf>, driver: &Chanbuf) {
    let settled = bus.wait_until(|activity| {
        activity == Activity::default() && driver.backlog() == Backlog::default()
    });
    tokio::time::timeout(PATIENCE, settled)
        .await
        .expect("in time");
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_is_retried_dead_lettered_and_handled_when_it_is_brought_back() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let (attempts, fixed) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicBool::new(false)),
    );
    let (log, works) = (attempts.clone(), fixed.clone());
    let started = Instant::now();
    bus.subscribe_stream("orders", move |_, context: Context| {
        log.lock()
            .unwrap()
            .push((context.attempt(), started.elapsed().as_secs()));
        let works = works.load(SeqCst);
        async move { if works { Ok(()) } else { Err(down()) } }
    })
    .group("billing")
    .layer(
        ServiceBuilder::new()
            .layer(Logging::new())
            .layer(DeadLetters::new(bus.publisher().writer().clone()))
            .layer(retry(3))
            .layer(Deduplication::new(Arc::new(MokaStorage::new(100).unwrap()))),
    )
    .register()
    .unwrap();
    let mut dead = collect(&bus, "orders.dlq");
    bus.start().await.unwrap();

    let order = message("orders", "order");
    bus.publisher()
        .write(std::slice::from_ref(&order))
        .await
        .unwrap();
    let copy = next(&mut dead).await;
    assert_eq!(*attempts.lock().unwrap(), [(1, 0), (2, 1), (3, 3)]);
    assert_eq!(copy.headers().get_str(headers::ATTEMPTS), Some("3"));
    assert_eq!(
        copy.headers().get_str(headers::REASON),
        Some("down for a moment")
    );
    assert_eq!(copy.headers().get_str(headers::GROUP), Some("billing"));
    assert_eq!(copy.id(), order.id());

    fixed.store(true, SeqCst);
    bus.publisher()
        .write(&[redrive(&copy).unwrap()])
        .await
        .unwrap();
    idle(&bus, &driver).await;
    assert_eq!(
        attempts.lock().unwrap().len(),
        4,
        "deduplication lets it through: it was never handled"
    );
    assert!(dead.try_recv().is_err());
    let report = bus.shutdown(SECOND).await;
    assert_eq!(
        (report.acknowledged(), report.abandoned()),
        (3, 0),
        "{report}"
    );
}

/// A writer that is down until it is not.
struct Breakable {
    inner: Arc<dyn Writer>,
    up: AtomicBool,
    refused: AtomicUsize,
}

#[async_trait]
impl Writer for Breakable {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if self.up.load(SeqCst) {
            self.inner.write(batch).await
        } else {
            self.refused.fetch_add(1, SeqCst);
            Err(WriteError::all(batch.len(), down))
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        self.inner.write_at(batch, due).await
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        self.inner.cancel(stream, id).await
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        self.inner.scheduled(stream, limit).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
}

#[tokio::test(start_paused = true)]
async fn while_dead_letters_cannot_be_written_the_message_is_not_acknowledged() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let writer = Arc::new(Breakable {
        inner: bus.publisher().writer().clone(),
        up: AtomicBool::new(false),
        refused: AtomicUsize::new(0),
    });
    bus.subscribe_stream("orders", |_, _| async {
        Outcome::dead_letter("no such tenant")
    })
    .group("billing")
    .layer(retry(2))
    .layer(DeadLetters::new(writer.clone()))
    .register()
    .unwrap();
    let mut dead = collect(&bus, "orders.dlq");
    bus.start().await.unwrap();
    bus.publisher()
        .write(&[message("orders", "order")])
        .await
        .unwrap();

    sleep(120 * SECOND).await;
    assert!(
        writer.refused.load(SeqCst) > 3,
        "it is tried again and again"
    );
    assert!(writer.refused.load(SeqCst) < 30, "with backoff");
    assert_eq!(bus.activity().in_flight, 1, "still unacknowledged");
    writer.up.store(true, SeqCst);
    assert_eq!(
        next(&mut dead).await.headers().get_str(headers::REASON),
        Some("no such tenant")
    );
    idle(&bus, &driver).await;
    assert!(dead.try_recv().is_err(), "once");
    assert_eq!(bus.shutdown(SECOND).await.acknowledged(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_two_members_with_the_same_message_one_handles_it() {
    let driver = Chanbuf::new();
    let storage = Arc::new(MokaStorage::new(1000).unwrap());
    let handled = Arc::new(Mutex::new(Vec::new()));
    let bus = bus(&driver);
    for _member in 0..2 {
        let handled = handled.clone();
        bus.subscribe_stream("orders", move |message: Message, _| {
            let handled = handled.clone();
            async move {
                sleep(SECOND).await;
                handled.lock().unwrap().push(text(&message).to_owned());
            }
        })
        .group("billing")
        .ordering(Ordering::None)
        .max_in_flight(8)
        .layer(Deduplication::new(storage.clone()))
        .register()
        .unwrap();
    }
    bus.start().await.unwrap();
    // As a publisher does that retries a write whose answer was lost.
    let order = |n: u32| {
        Message::builder("orders")
            .data(n.to_string())
            .build()
            .unwrap()
    };
    let orders: Vec<_> = (0..50)
        .map(order)
        .flat_map(|order| [order.clone(), order.clone(), order])
        .collect();
    bus.publisher().write(&orders).await.unwrap();
    idle(&bus, &driver).await;
    let report = bus.shutdown(SECOND).await;
    assert_eq!(report.acknowledged(), 150, "{report}");
    assert!(
        report
            .subscriptions
            .iter()
            .all(|member| member.acknowledged > 0),
        "{report}"
    );
    let mut handled = handled.lock().unwrap().clone();
    handled.sort_by_key(|text| text.parse::<u32>().unwrap());
    assert_eq!(handled, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn every_layer_wraps_a_batch_handler() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let (handled, largest) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicUsize::new(0)),
    );
    let (log, most) = (handled.clone(), largest.clone());
    let handler = move |batch: Batch| {
        most.fetch_max(batch.len(), SeqCst);
        let log = log.clone();
        async move {
            batch
                .iter()
                .map(|item| match (text(item.message()), item.attempt()) {
                    ("fails twice", 1..=2) | ("never works", _) => Err(down().into()),
                    ("poison", _) => Ok(Outcome::dead_letter("poison")),
                    (data, _) => {
                        assert!(item.time_left().is_some(), "the timeout's deadline");
                        log.lock().unwrap().push(data.to_owned());
                        Ok(Outcome::Ack)
                    }
                })
                .collect()
        }
    };
    let layers = ServiceBuilder::new()
        .layer(CorrelationId::new())
        .layer(Logging::new())
        .layer(DeadLetters::new(bus.publisher().writer().clone()))
        .layer(retry(4))
        .layer(
            CircuitBreaker::builder()
                .consecutive_failures(100)
                .build()
                .unwrap(),
        )
        .layer(RateLimit::new(1000, SECOND).unwrap())
        .layer(streams_middleware::ConcurrencyLimit::new(2).unwrap())
        .layer(Deduplication::new(Arc::new(
            MokaStorage::new(1000).unwrap(),
        )))
        .layer(from_fn(|batch: Batch, next: Next<_>| async move {
            next.run(batch).await
        }))
        .layer(Timeout::new(30 * SECOND).unwrap());
    bus.subscribe_batch("orders", 10, handler)
        .group("billing")
        .layer(layers)
        .register()
        .unwrap();
    let mut dead = collect(&bus, "orders.dlq");
    bus.start().await.unwrap();

    let twice = message("orders", "twice");
    let batch = [
        message("orders", "fine"),
        twice.clone(),
        message("orders", "fails twice"),
        message("orders", "poison"),
        twice,
        message("orders", "never works"),
    ];
    bus.publisher().write(&batch).await.unwrap();
    let mut letters = [
        text(&next(&mut dead).await).to_owned(),
        text(&next(&mut dead).await).to_owned(),
    ];
    letters.sort_unstable();
    assert_eq!(letters, ["never works", "poison"]);
    idle(&bus, &driver).await;
    let mut handled = handled.lock().unwrap().clone();
    handled.sort_unstable();
    assert_eq!(handled, ["fails twice", "fine", "twice"]);
    assert!(largest.load(SeqCst) > 1, "there were batches");
    assert_eq!(bus.shutdown(SECOND).await.acknowledged(), 6 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_messages_failure() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = handled.clone();
    bus.subscribe_stream("orders", move |message: Message, _| {
        let counted = counted.clone();
        async move {
            assert_ne!(text(&message), "bomb", "on purpose");
            counted.fetch_add(1, SeqCst);
        }
    })
    .group("billing")
    .layer(Timeout::new(30 * SECOND).unwrap())
    .layer(Deduplication::new(Arc::new(MokaStorage::new(100).unwrap())))
    .layer(retry(2))
    .layer(DeadLetters::new(bus.publisher().writer().clone()))
    .register()
    .unwrap();
    let mut dead = collect(&bus, "orders.dlq");
    bus.start().await.unwrap();
    let orders = ["a", "bomb", "b", "c"].map(|data| message("orders", data));
    bus.publisher().write(&orders).await.unwrap();
    let copy = next(&mut dead).await;
    assert!(
        copy.headers()
            .get_str(headers::REASON)
            .unwrap()
            .contains("on purpose")
    );
    assert_eq!(copy.headers().get_str(headers::ATTEMPTS), Some("2"));
    idle(&bus, &driver).await;
    assert_eq!(handled.load(SeqCst), 3);
    bus.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_layer_is_too() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = handled.clone();
    bus.subscribe_stream("orders", move |_, _| {
        counted.fetch_add(1, SeqCst);
        async {}
    })
    .group("billing")
    .layer(from_fn(|context: Context, next: Next<_>| async move {
        assert!(
            text(context.message()) != "bomb" || context.attempt() > 2,
            "on purpose"
        );
        next.run(context).await
    }))
    .layer(retry(2))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let orders = ["a", "bomb", "b"].map(|data| message("orders", data));
    bus.publisher().write(&orders).await.unwrap();
    idle(&bus, &driver).await;
    assert_eq!(
        handled.load(SeqCst),
        3,
        "the runner has caught it and tried again"
    );
    bus.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_attempts_of_its_probes_makes_no_dead_letters() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let started = Instant::now();
    bus.subscribe_stream("orders", move |_, _| {
        counted.fetch_add(1, SeqCst);
        let up = started.elapsed() > 25 * SECOND;
        async move { if up { Ok(()) } else { Err(down()) } }
    })
    .group("billing")
    .layer(
        ServiceBuilder::new()
            .layer(DeadLetters::new(Arc::new(NoopWriter::failing(|| {
                unreachable!("no dead letters")
            }))))
            .layer(retry(5))
            .layer(
                CircuitBreaker::builder()
                    .consecutive_failures(2)
                    .open_for(10 * SECOND)
                    .build()
                    .unwrap(),
            ),
    )
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let orders: Vec<_> = (0..40).map(|_| message("orders", "x")).collect();
    bus.publisher().write(&orders).await.unwrap();
    idle(&bus, &driver).await;
    // Two open the circuit, the probes at 10 s and 20 s fail, the one at 30 s does not.
    assert_eq!(calls.load(SeqCst), 2 + 2 + 40);
    let report = bus.shutdown(SECOND).await;
    assert_eq!(report.acknowledged(), 40, "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_runners_own_timeout_gives_back_what_waits_for_a_layer() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let log = attempts.clone();
    bus.subscribe_stream("orders", move |_, context: Context| {
        log.lock().unwrap().push(context.first_failure().is_some());
        async {}
    })
    .group("billing")
    .handler_timeout(SECOND)
    .layer(RateLimit::new(1, 5 * SECOND).unwrap())
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let started = Instant::now();
    bus.publisher()
        .write(&[message("orders", "a"), message("orders", "b")])
        .await
        .unwrap();
    idle(&bus, &driver).await;
    assert!(started.elapsed() >= 5 * SECOND);
    assert_eq!(
        *attempts.lock().unwrap(),
        [false, false],
        "waiting is no failure"
    );
    bus.shutdown(SECOND).await;
}
