//! What a subscription does without any setting: nothing is dropped, nothing loops hot, one bad
//! message or handler costs only itself.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, SystemTime};

use streams_chanbuf::Chanbuf;
use streams_chanbuf::testing::TestBus;
use streams_core::{
    AnyDriver, Bus, Capabilities, Context, Driver, Error, ErrorKind, HandlerError, Message,
    MessageId, Outcome, Result, Scheduled, StreamName, WriteError, Writer, async_trait,
    dead_letter,
};
use tokio::time::Instant;

use common::{message, text};

/// Everything logged in this process. The log is one for all tests, so that workers on any thread
/// reach it.
fn log() -> String {
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static INIT: Once = Once::new();
    struct Log;
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    INIT.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Log)
            .init();
    });
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

#[tokio::test(start_paused = true)]
async fn an_error_is_retried_with_capped_backoff_then_dead_lettered() {
    let test = TestBus::new().unwrap();
    let times = Arc::new(Mutex::new(Vec::new()));
    test.bus()
        .subscribe_stream("a", {
            let times = times.clone();
            move |_, context: Context| {
                times
                    .lock()
                    .unwrap()
                    .push((Instant::now(), context.attempt()));
                async { Err::<(), _>(HandlerError::new("no luck")) }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus()
        .publisher()
        .write(&[message("a", None, "x")])
        .await
        .unwrap();
    test.wait_drained().await;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 8);
    for (i, pair) in times.windows(2).enumerate() {
        let waited = pair[1].0 - pair[0].0;
        let least = Duration::from_millis(100 << i);
        assert!(
            waited >= least && waited <= least * 2 + Duration::from_millis(10),
            "{i}: {waited:?}"
        );
        assert_eq!(pair[1].1, pair[0].1 + 1);
    }
    let dead = test.published_messages("a.dlq").unwrap();
    let header = |name| dead[0].headers().get_str(name);
    assert_eq!(header(dead_letter::headers::REASON), Some("no luck"));
    assert_eq!(header(dead_letter::headers::ATTEMPTS), Some("8"));
    assert_ne!(
        header(dead_letter::headers::FIRST_FAILURE),
        header(dead_letter::headers::LAST_FAILURE)
    );
}

/// A writer whose dead letters fail until told otherwise.
struct FailingDeadLetters {
    inner: Arc<dyn Writer>,
    down: Arc<AtomicBool>,
}

#[async_trait]
impl Writer for FailingDeadLetters {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if self.down.load(SeqCst) && batch.iter().any(|m| m.stream().is_dead_letters()) {
            return Err(WriteError::all(batch.len(), || {
                Error::new(ErrorKind::Unavailable, "down")
            }));
        }
        self.inner.write(batch).await
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
async fn a_dead_letter_that_cannot_be_written_leaves_the_original_unsettled() {
    let chanbuf = Chanbuf::builder().record(100).build().unwrap();
    let down = Arc::new(AtomicBool::new(true));
    let writer = FailingDeadLetters {
        inner: chanbuf.writer(),
        down: down.clone(),
    };
    let bus = Bus::new(AnyDriver::new(chanbuf.reader(), Arc::new(writer)));
    let attempts = Arc::new(AtomicUsize::new(0));
    bus.subscribe_stream("a", {
        let attempts = attempts.clone();
        move |_, _| {
            attempts.fetch_add(1, SeqCst);
            async { Err::<(), _>(HandlerError::unrecoverable("poison")) }
        }
    })
    .group("g")
    .register()
    .unwrap();
    bus.start().await.unwrap();
    bus.publisher()
        .write(&[message("a", None, "x")])
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(120), std::future::pending::<()>())
        .await
        .unwrap_err();
    let tried = attempts.load(SeqCst);
    assert!(
        (5..40).contains(&tried),
        "tried {tried} times in two minutes"
    );
    assert_eq!(chanbuf.backlog().unsettled, 1, "still the broker's");
    down.store(false, SeqCst);
    bus.wait_until(|activity| activity.in_flight == 0 && activity.unsettled == 0)
        .await;
    assert_eq!(chanbuf.recorded("a.dlq").unwrap().len(), 1);
    assert_eq!(chanbuf.backlog().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_retry_survives_the_reader() {
    let test = TestBus::new().unwrap();
    let chanbuf = test.chanbuf().clone();
    test.bus()
        .subscribe_stream("a", |_, _| async {
            Outcome::retry_after(Duration::from_secs(3600))
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus()
        .publisher()
        .write(&[message("a", Some("k"), "x")])
        .await
        .unwrap();
    test.wait_idle().await;
    // The reader goes without a word: no shutdown.
    drop(test);
    let bus = Bus::new(chanbuf);
    let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_stream("a", move |message: Message, context: Context| {
        sender.send((text(&message), context.attempt())).unwrap();
        async {}
    })
    .group("g")
    .register()
    .unwrap();
    bus.start().await.unwrap();
    assert_eq!(handled.recv().await.unwrap(), ("x".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_message() {
    let test = TestBus::new().unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    test.bus()
        .subscribe_stream("a", {
            let handled = handled.clone();
            move |message: Message, _| {
                if text(&message) == "5" {
                    // Without the hook's output.
                    std::panic::resume_unwind(Box::new("cannot take 5"));
                }
                handled.fetch_add(1, SeqCst);
                async {}
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = (0..10)
        .map(|i| message("a", None, &i.to_string()))
        .collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    assert_eq!(handled.load(SeqCst), 9);
    let dead = test.published_messages("a.dlq").unwrap();
    assert_eq!(dead.len(), 1);
    let reason = dead[0]
        .headers()
        .get_str(dead_letter::headers::REASON)
        .unwrap();
    assert!(reason.contains("panicked: cannot take 5"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn retrying_keeps_the_order_of_the_key() {
    let test = TestBus::new().unwrap();
    let seen: Arc<Mutex<HashMap<String, Vec<usize>>>> = Arc::default();
    test.bus()
        .subscribe_stream("a", {
            let seen = seen.clone();
            move |message: Message, context: Context| {
                let seen = seen.clone();
                async move {
                    let key = message.key().unwrap().as_str().unwrap().to_owned();
                    let number = text(&message).parse().unwrap();
                    if number % 3 == 0 && context.attempt() < 3 {
                        return Err(HandlerError::new("again"));
                    }
                    seen.lock().unwrap().entry(key).or_default().push(number);
                    Ok(())
                }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = (0..80)
        .map(|i| message("a", Some(&format!("k{}", i % 8)), &(i / 8).to_string()))
        .collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    for (key, numbers) in seen.lock().unwrap().iter() {
        assert_eq!(*numbers, (0..10).collect::<Vec<_>>(), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_key_does_not_stall_the_others() {
    let test = TestBus::new().unwrap();
    let start = Instant::now();
    let others_done = Arc::new(Mutex::new(None));
    let count = Arc::new(AtomicUsize::new(0));
    test.bus()
        .subscribe_stream("a", {
            let (others_done, count) = (others_done.clone(), count.clone());
            move |message: Message, _| {
                let (others_done, count) = (others_done.clone(), count.clone());
                async move {
                    if message.key().unwrap().as_str() == Some("slow") {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    } else if count.fetch_add(1, SeqCst) == 299 {
                        *others_done.lock().unwrap() = Some(start.elapsed());
                    }
                }
            }
        })
        .group("g")
        .concurrency(4)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let slow = (0..100).map(|i| message("a", Some("slow"), &i.to_string()));
    let others = (0..300).map(|i| message("a", Some(&format!("k{i}")), "x"));
    let batch: Vec<_> = slow.chain(others).collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    let took = others_done.lock().unwrap().expect("all handled");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A handler that blocks its thread holds up neither what was fetched with it nor what comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_holds_up_only_itself() {
    log();
    let test = TestBus::new().unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
    test.bus()
        .subscribe_stream("a", move |message: Message, _| {
            let (blocked, sender) = (blocked.clone(), sender.clone());
            async move {
                if text(&message) == "block" {
                    blocked.lock().unwrap().recv().unwrap();
                }
                sender.send(text(&message)).unwrap();
            }
        })
        .group("g")
        .concurrency(2)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    // Whether others wait behind it, which is when it is said, depends on where a worker's share ends.
    for _ in 0..50 {
        // Quick ones first, so that the worker takes many at once.
        let mut batch: Vec<_> = (0..500)
            .map(|i| message("a", None, &i.to_string()))
            .collect();
        batch.insert(250, message("a", None, "block"));
        test.bus().publisher().write(&batch).await.unwrap();
        for _ in 0..500 {
            let next = tokio::time::timeout(Duration::from_secs(20), handled.recv()).await;
            assert_ne!(next.expect("not held up").unwrap(), "block");
        }
        release.send(()).unwrap();
        assert_eq!(handled.recv().await.unwrap(), "block");
        if log().contains("spawn_blocking") {
            return;
        }
    }
    panic!("it is not said that a handler blocks");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_drains_what_runs_and_releases_what_has_not_started() {
    let test = TestBus::new().unwrap();
    let (started, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    test.bus()
        .subscribe_stream("a", {
            let (started, finished) = (started.clone(), finished.clone());
            move |_, context: Context| {
                let (started, finished) = (started.clone(), finished.clone());
                async move {
                    started.fetch_add(1, SeqCst);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    assert!(!context.is_cancelled(), "cancelled before the deadline");
                    finished.fetch_add(1, SeqCst);
                }
            }
        })
        .group("g")
        .concurrency(10)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = (0..100)
        .map(|i| message("a", None, &i.to_string()))
        .collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.bus()
        .wait_until(|activity| activity.in_flight == 100 && activity.running == 10)
        .await;
    let began = Instant::now();
    let report = test.bus().shutdown(Duration::from_secs(30)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    let one = &report.subscriptions[0];
    let counts = (
        one.in_flight_at_shutdown,
        one.finished,
        one.released,
        one.abandoned,
    );
    assert_eq!(counts, (100, 10, 90, 0), "{report}");
    assert_eq!((started.load(SeqCst), finished.load(SeqCst)), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_cancellation_is_abandoned_at_the_deadline() {
    log();
    let test = TestBus::new().unwrap();
    let told = Arc::new(AtomicBool::new(false));
    test.bus()
        .subscribe_stream("a", {
            let told = told.clone();
            move |message: Message, context: Context| {
                let told = told.clone();
                async move {
                    if text(&message) == "listens" {
                        context.cancelled().wait().await;
                        told.store(true, SeqCst);
                    } else {
                        std::future::pending::<()>().await;
                    }
                }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch = [message("a", None, "listens"), message("a", None, "ignores")];
    test.bus().publisher().write(&batch).await.unwrap();
    test.bus()
        .wait_until(|activity| activity.running == 2)
        .await;
    let began = Instant::now();
    let report = test.bus().shutdown(Duration::from_secs(5)).await;
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_millis(5500),
        "{took:?}"
    );
    assert!(
        log().contains("raise the deadline, or end them"),
        "it is said, and what to do"
    );
    assert!(told.load(SeqCst), "the one that listens was told");
    assert_eq!(
        (report.subscriptions[0].finished, report.abandoned()),
        (1, 1),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_past_its_timeout_is_stopped_and_tried_again() {
    let test = TestBus::new().unwrap();
    let left = Arc::new(Mutex::new(Vec::new()));
    test.bus()
        .subscribe_stream("a", {
            let left = left.clone();
            move |_, context: Context| {
                left.lock().unwrap().push(context.time_left().unwrap());
                async move {
                    if context.attempt() == 1 {
                        std::future::pending::<()>().await;
                    }
                }
            }
        })
        .group("g")
        .handler_timeout(Duration::from_secs(2))
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus()
        .publisher()
        .write(&[message("a", None, "x")])
        .await
        .unwrap();
    test.wait_drained().await;
    assert_eq!(*left.lock().unwrap(), [Duration::from_secs(2); 2]);
}

#[tokio::test(start_paused = true)]
async fn in_flight_stays_within_its_bounds() {
    let test = TestBus::new().unwrap();
    let bus = test.bus().clone();
    let most = Arc::new(AtomicUsize::new(0));
    test.bus()
        .subscribe_stream("a", {
            let most = most.clone();
            move |_, _| {
                most.fetch_max(bus.activity().in_flight, SeqCst);
                async { tokio::time::sleep(Duration::from_millis(1)).await }
            }
        })
        .group("g")
        .max_in_flight(20)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = (0..2000)
        .map(|i| message("a", None, &i.to_string()))
        .collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    assert_eq!(most.load(SeqCst), 20);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_flight_stay_within_their_bound() {
    let test = TestBus::new().unwrap();
    let bus = test.bus().clone();
    let most = Arc::new(AtomicUsize::new(0));
    test.bus()
        .subscribe_stream("a", {
            let most = most.clone();
            move |_, _| {
                most.fetch_max(bus.activity().in_flight, SeqCst);
                async { tokio::time::sleep(Duration::from_millis(1)).await }
            }
        })
        .group("g")
        .max_in_flight_bytes(10_000)
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let large = "x".repeat(1000);
    for _ in 0..100 {
        test.bus()
            .publisher()
            .write(&[message("a", None, &large)])
            .await
            .unwrap();
        // One fetch may bring more than one message; here it brings one.
        tokio::task::yield_now().await;
    }
    test.wait_drained().await;
    assert!(most.load(SeqCst) <= 20, "{}", most.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_dropped_ends_its_subscriptions() {
    let test = TestBus::new().unwrap();
    let chanbuf = test.chanbuf().clone();
    test.bus()
        .subscribe_stream("a", |_, _| std::future::pending::<()>())
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    test.bus()
        .publisher()
        .write(&[message("a", None, "x")])
        .await
        .unwrap();
    test.bus()
        .wait_until(|activity| activity.running == 1)
        .await;
    drop(test);
    // The member leaves, and with it the group's last.
    let left = async {
        while chanbuf.backlog().unsettled > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left)
        .await
        .expect("the member has left");
}
