//! Exactly-once subscriptions: what a handler publishes and its acknowledgement are one.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use streams_chanbuf::Chanbuf;
use streams_chanbuf::testing::TestBus;
use streams_core::{
    AnyDriver, Backoff, Batch, Bus, Capabilities, Context, Delivery, Driver, ErrorKind,
    FailurePolicy, HandlerError, Message, NoopWriter, Outcome, PartitionListener, ReadOptions,
    Reader, Received, Result, SettleReport, Settlement, Subscription, TransactionPart, async_trait,
    dead_letter,
};
use tokio::sync::Notify;

fn output(context: &Context, text: &str) -> Message {
    let of = context.message();
    let message = Message::builder("out").maybe_key(of.key().cloned());
    let text = [of.data(), text.as_bytes()].concat();
    message.data(text).build().unwrap()
}

fn texts(messages: &[Message]) -> Vec<String> {
    let text = |m: &Message| String::from_utf8(m.data().to_vec()).unwrap();
    messages.iter().map(text).collect()
}

async fn write(test: &TestBus, inputs: &[&str]) {
    let input = |text: &&str| {
        Message::builder("in")
            .key("k")
            .data(text.to_string())
            .build()
    };
    let inputs: Vec<_> = inputs.iter().map(|i| input(i).unwrap()).collect();
    test.bus().publisher().write(&inputs).await.unwrap();
}

/// Waits until so many are committed to a stream.
async fn committed(test: &TestBus, stream: &str, count: usize) -> Vec<String> {
    let messages = || test.published_messages(stream).unwrap();
    test.bus().wait_until(|_| messages().len() >= count).await;
    texts(&messages())
}

fn soon() -> FailurePolicy {
    FailurePolicy::default()
        .backoff(Backoff::new(
            Duration::from_millis(1),
            Duration::from_millis(2),
        ))
        .max_attempts(Some(3))
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_attempt_published_is_dropped() {
    let test = TestBus::new().unwrap();
    test.bus()
        .subscribe_stream("in", |_: Message, context: Context| async move {
            let publisher = context.publisher();
            publisher.write(&[output(&context, ".1")]).await?;
            publisher.write(&[output(&context, ".2")]).await?;
            if context.attempt() < 3 && context.message().data() == "b" {
                return Err(HandlerError::new("not yet"));
            }
            Ok(())
        })
        .group("g")
        .on_failure(soon())
        .exactly_once()
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    write(&test, &["a", "b", "c"]).await;
    test.wait_idle().await;
    let written = test.published_messages("out").unwrap();
    assert_eq!(texts(&written), ["a.1", "a.2", "b.1", "b.2", "c.1", "c.2"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_takes_the_place_of_the_outputs() {
    let test = TestBus::new().unwrap();
    test.bus()
        .subscribe_stream("in", |_: Message, context: Context| async move {
            context.publisher().write(&[output(&context, "")]).await?;
            match context.message().data().as_ref() {
                b"fails" => Err(HandlerError::new("fails")),
                b"asks" => Ok(Outcome::dead_letter("as asked")),
                _ => Ok(Outcome::Ack),
            }
        })
        .group("g")
        .on_failure(soon())
        .exactly_once()
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    write(&test, &["fails", "fine", "asks"]).await;
    assert_eq!(committed(&test, "in.dlq", 2).await, ["fails", "asks"]);
    assert_eq!(committed(&test, "out", 1).await, ["fine"]);
    let letters = test.published_messages("in.dlq").unwrap();
    let reason = |m: &Message| {
        m.headers()
            .get_str(dead_letter::headers::REASON)
            .map(str::to_owned)
    };
    assert_eq!(reason(&letters[0]).as_deref(), Some("fails"));
    let report = test.bus().shutdown(Duration::ZERO).await;
    assert_eq!(report.subscriptions[0].dead_lettered, 2);
}

#[tokio::test(start_paused = true)]
async fn each_item_of_a_batch_has_outputs_of_its_own() {
    let test = TestBus::new().unwrap();
    test.bus()
        .subscribe_batch("in", 8, |batch: Batch| async move {
            for context in &batch {
                context
                    .publisher()
                    .write(&[output(context, "")])
                    .await
                    .unwrap();
            }
            // The second fails once, and takes the later ones of its key with it.
            let mut failed = false;
            batch
                .iter()
                .map(|context| {
                    failed |= context.message().data() == "b" && context.attempt() == 1;
                    if failed {
                        Err(HandlerError::new("not yet"))
                    } else {
                        Ok(Outcome::Ack)
                    }
                })
                .collect()
        })
        .group("g")
        .on_failure(soon())
        .exactly_once()
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    write(&test, &["a", "b", "c"]).await;
    test.wait_idle().await;
    assert_eq!(
        texts(&test.published_messages("out").unwrap()),
        ["a", "b", "c"]
    );
}

#[tokio::test(start_paused = true)]
async fn outputs_wait_for_their_transaction_and_a_shutdown_does_not() {
    let test = TestBus::new().unwrap();
    let handled = Arc::new(Notify::new());
    let tell = handled.clone();
    test.bus()
        .subscribe_stream("in", move |_: Message, context: Context| {
            let tell = tell.clone();
            async move {
                context.publisher().write(&[output(&context, "")]).await?;
                tell.notify_one();
                Ok::<_, HandlerError>(())
            }
        })
        .group("g")
        .exactly_once()
        .commit_interval(Duration::from_secs(30))
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    write(&test, &["a"]).await;
    handled.notified().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(test.published_messages("out").unwrap().is_empty());
    assert_eq!(test.chanbuf().backlog().unsettled, 1);
    test.bus().shutdown(Duration::from_secs(1)).await;
    assert_eq!(texts(&test.published_messages("out").unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn much_that_waits_is_committed_at_once() {
    let test = TestBus::new().unwrap();
    test.bus()
        .subscribe_stream("in", |_: Message, context: Context| async move {
            let large = Message::builder("out").data(vec![b'x'; 1000]).build()?;
            context.publisher().write(&[large]).await?;
            Ok::<_, HandlerError>(())
        })
        .group("g")
        .max_in_flight_bytes(4000)
        .exactly_once()
        .commit_interval(Duration::from_secs(30))
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        write(&test, &["a"]).await;
    }
    committed(&test, "out", 95).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_part_of_the_transaction_is_refused_in_the_handler() {
    let chanbuf = Chanbuf::builder().largest_message(10);
    let test = TestBus::with(chanbuf, Default::default()).unwrap();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    test.bus()
        .subscribe_stream("in", move |_: Message, context: Context| {
            let keep = keep.clone();
            async move {
                let writer = context.publisher().writer();
                let fit = output(&context, "");
                let later = SystemTime::now() + Duration::from_secs(1);
                let error = writer
                    .write_at(std::slice::from_ref(&fit), later)
                    .await
                    .unwrap_err();
                assert_eq!(error.failures()[0].1.kind(), ErrorKind::Unsupported);
                let error = writer.cancel(fit.stream(), fit.id()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let large = Message::builder("out").data(vec![0; 11]).build()?;
                let batch = [large.clone(), fit.clone()];
                let error = context.publisher().write(&batch).await.unwrap_err();
                assert_eq!(error.indices().collect::<Vec<_>>(), [0]);
                assert_eq!(error.failures()[0].1.kind(), ErrorKind::TooLarge);
                // Of a transaction within it nothing is written.
                let error = context.publisher().write_in_transaction(&batch).await;
                assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge);
                *keep.lock().unwrap() = Some(context);
                Ok::<_, HandlerError>(())
            }
        })
        .group("g")
        .exactly_once()
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    write(&test, &["a"]).await;
    test.wait_idle().await;
    assert_eq!(texts(&test.published_messages("out").unwrap()), ["a"]);
    let context = kept.lock().unwrap().take().unwrap();
    let late = context.publisher().write(&[output(&context, "")]).await;
    let late = streams_core::Error::from(late.unwrap_err());
    assert_eq!(late.kind(), ErrorKind::Closed);
    assert!(late.to_string().contains("returned"), "{late}");
}

/// Chanbuf's reader, said to be able to do less.
struct Plain(Arc<dyn Reader>, Capabilities);

#[async_trait]
impl Reader for Plain {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        self.0.subscribe(options).await
    }

    fn capabilities(&self) -> &Capabilities {
        &self.1
    }
}

/// Chanbuf's reader, whose transactions do not end.
struct Stuck(Arc<dyn Reader>, Arc<AtomicUsize>);

struct StuckSubscription(Box<dyn Subscription>, Arc<AtomicUsize>);

#[async_trait]
impl Reader for Stuck {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let subscription = self.0.subscribe(options).await?;
        Ok(Box::new(StuckSubscription(subscription, self.1.clone())))
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[async_trait]
impl Subscription for StuckSubscription {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        self.0.receive(max, out).await
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        self.0.settle(settlements).await
    }

    async fn settle_in_transaction(
        &mut self,
        _: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn close(&mut self) -> Result<()> {
        self.0.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_settled_after_a_transaction_nobody_knows_the_end_of() {
    let chanbuf = Chanbuf::new();
    let attempts = Arc::new(AtomicUsize::new(0));
    let reader = Arc::new(Stuck(chanbuf.reader(), attempts.clone()));
    let bus = Bus::new(AnyDriver::new(reader, chanbuf.writer()));
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), gate.clone());
    bus.subscribe_stream("in", move |message: Message, _| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            if message.data() == "slow" {
                tell.notify_one();
                wait.notified().await;
            }
        }
    })
    .group("g")
    .exactly_once()
    .commit_interval(Duration::from_secs(30))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let message = |data: &str| {
        Message::builder("in")
            .data(data.to_owned())
            .build()
            .unwrap()
    };
    let batch = [message("quick"), message("slow")];
    bus.publisher().write(&batch).await.unwrap();
    begun.notified().await;
    let shutdown = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(60)).await }
    });
    // The first transaction is given up; then the slow handler ends, with one of its own to settle.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    gate.notify_one();
    let report = shutdown.await.unwrap();
    assert_eq!(report.acknowledged(), 2);
    assert_eq!(
        attempts.load(Ordering::Relaxed),
        1,
        "it would pass over the first"
    );
}

struct Listener;
impl PartitionListener for Listener {}

#[tokio::test]
async fn what_a_driver_cannot_do_is_refused() {
    let reader = Chanbuf::new().reader();
    let capabilities = reader.capabilities().clone().exactly_once(false);
    let plain = Arc::new(Plain(reader, capabilities));
    let bus = Bus::new(AnyDriver::new(plain, Arc::new(NoopWriter::new())));
    let handler = |_: Message, _: Context| async {};
    let builder = || bus.subscribe_stream("in", handler).group("g");
    let kind = |result: Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(builder().exactly_once().register()),
        ErrorKind::Unsupported
    );
    assert_eq!(
        kind(builder().on_partitions(Listener).register()),
        ErrorKind::Unsupported
    );
    let event = Message::builder("in").data("x").build().unwrap();
    let error = bus.publisher().write_in_transaction(&[event]).await;
    assert_eq!(kind(error), ErrorKind::Unsupported);

    let bus = Bus::new(Chanbuf::new());
    let builder = || bus.subscribe_stream("in", handler).group("g");
    let interval = Duration::from_millis(10);
    let refused = [
        builder().commit_interval(interval).register(),
        builder()
            .exactly_once()
            .commit_interval(Duration::ZERO)
            .register(),
        builder()
            .exactly_once()
            .commit_interval(Duration::from_secs(31))
            .register(),
    ];
    assert_eq!(refused.map(kind), [ErrorKind::InvalidConfig; 3]);
    builder()
        .exactly_once()
        .commit_interval(interval)
        .register()
        .unwrap();
}
