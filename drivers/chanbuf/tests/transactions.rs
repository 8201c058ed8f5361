//! Transactions: a batch over several streams, and settling together with what comes of it, are all
//! or nothing, whatever refuses and whoever looks.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use streams_chanbuf::{Chanbuf, Full, Unheld};
use streams_core::{
    Delivery, Driver, ErrorKind, Message, ReadOptions, StartFrom, Subscription, TransactionPart,
};

const STREAMS: [&str; 3] = ["a", "b", "c"];
const LARGEST: usize = 100;

fn message(stream: &str, data: impl Into<Vec<u8>>) -> Message {
    let message = Message::builder(stream).data(data.into());
    message.build_received().unwrap()
}

/// A message of a batch, which says how many of it each stream has.
fn of_batch(stream: &str, batch: usize, counts: [usize; 3]) -> Message {
    let [a, b, c] = counts;
    message(stream, format!("{batch} {a} {b} {c}"))
}

fn parse(message: &Message) -> [usize; 4] {
    let text = std::str::from_utf8(message.data()).unwrap();
    let numbers: Vec<_> = text.split(' ').map(|n| n.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn count(broker: &Chanbuf, stream: &str, batch: usize) -> usize {
    let recorded = broker.recorded(stream).unwrap();
    recorded.iter().filter(|m| parse(m)[0] == batch).count()
}

async fn open(broker: &Chanbuf, stream: &str) -> Box<dyn Subscription> {
    let options = ReadOptions::new(stream).unwrap().group("g").unwrap();
    broker.reader().subscribe(&options).await.unwrap()
}

fn take(subscription: &mut Box<dyn Subscription>, max: usize) -> Vec<Delivery> {
    let mut out = Vec::new();
    if let Some(received) = subscription.try_receive(NonZeroUsize::new(max).unwrap(), &mut out) {
        received.unwrap();
    }
    out
}

#[tokio::test]
async fn a_batch_that_cannot_be_written_leaves_nothing() {
    for seed in 0..300 {
        let rng = &mut Rng::with_seed(seed);
        let broker = Chanbuf::builder()
            .capacity(20)
            .full(Full::Refuse)
            .largest_message(LARGEST)
            .record(10_000);
        let broker = broker.build().unwrap();
        let mut held: Vec<_> = Vec::new();
        for stream in STREAMS {
            held.push(open(&broker, stream).await);
        }
        let writer = broker.writer();
        let mut written = [0; 3];
        let mut settled = [0; 3];
        for number in 0..40 {
            let counts = [0; 3].map(|_| rng.usize(0..8));
            let mut batch = Vec::new();
            for (stream, count) in STREAMS.iter().zip(counts) {
                batch.extend((0..count).map(|_| of_batch(stream, number, counts)));
            }
            rng.shuffle(&mut batch);
            let bad = (rng.u8(0..3) == 0).then(|| rng.usize(0..=batch.len()));
            let expected = match bad {
                Some(at) => {
                    let (stream, kind, data) = match rng.u8(0..3) {
                        0 => ("a", ErrorKind::TooLarge, vec![b'x'; LARGEST + 1]),
                        1 => ("b", ErrorKind::EmptyMessage, vec![]),
                        _ => ("nobody", ErrorKind::NoSubscriberRegistered, vec![b'x']),
                    };
                    batch.insert(at, message(stream, data));
                    Some(kind)
                }
                None => None,
            };
            let fits = (0..3).all(|i| written[i] - settled[i] + counts[i] <= 20);
            match writer.write_in_transaction(&batch).await {
                Ok(()) => {
                    assert!(expected.is_none() && fits, "seed {seed}");
                    (0..3).for_each(|i| written[i] += counts[i]);
                    let got = STREAMS.map(|stream| count(&broker, stream, number));
                    assert_eq!(got, counts, "seed {seed}");
                }
                Err(error) => {
                    let full = !fits && error.kind() == ErrorKind::Full;
                    assert!(
                        full || Some(error.kind()) == expected,
                        "seed {seed}: {error}"
                    );
                    if let (Some(at), true) = (bad, Some(error.kind()) == expected) {
                        let index = error.context().find(|(name, _)| *name == "index");
                        assert_eq!(index, Some(("index", at.to_string().as_str())));
                    }
                    let got = STREAMS.map(|stream| count(&broker, stream, number));
                    assert_eq!(got, [0; 3], "seed {seed}: {error}");
                }
            }
            let at = rng.usize(0..3);
            let deliveries = take(&mut held[at], rng.usize(1..20));
            settled[at] += deliveries.len();
            let mut settlements = deliveries.into_iter().map(Delivery::ack).collect();
            held[at].settle(&mut settlements).await.unwrap();
        }
    }
}

/// Threads write over streams that wait for room; whoever sees one message of a batch finds the
/// others, and all arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_half_of_a_batch() {
    const WRITERS: usize = 4;
    const BATCHES: usize = 150;
    let broker = Chanbuf::builder().capacity(10).record(1_000_000);
    let broker = broker.build().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for stream in STREAMS {
        let mut subscription = open(&broker, stream).await;
        let (broker, done) = (broker.clone(), done.clone());
        readers.push(tokio::spawn(async move {
            let mut all = 0;
            while !done.load(Ordering::Acquire) || broker.backlog().ready > 0 {
                let mut seen = HashSet::new();
                let mut settlements = Vec::new();
                for delivery in take(&mut subscription, 3) {
                    let [batch, counts @ ..] = parse(&delivery.message);
                    if seen.insert(batch) && batch % 16 == 0 {
                        let others = STREAMS.map(|stream| count(&broker, stream, batch));
                        assert_eq!(others, counts);
                    }
                    all += 1;
                    settlements.push(delivery.ack());
                }
                subscription.settle(&mut settlements).await.unwrap();
                tokio::task::yield_now().await;
            }
            all
        }));
    }
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let writer = broker.writer();
        writers.push(tokio::spawn(async move {
            let rng = &mut Rng::with_seed(number as u64);
            let mut total = 0;
            for batch in 0..BATCHES {
                let counts = [0; 3].map(|_| rng.usize(0..8));
                let number = batch * WRITERS + number;
                let mut messages = Vec::new();
                for (stream, count) in STREAMS.iter().zip(counts) {
                    messages.extend((0..count).map(|_| of_batch(stream, number, counts)));
                }
                if rng.u8(0..4) == 0 {
                    let one = of_batch("a", usize::MAX, [0; 3]);
                    writer.write(&[one]).await.unwrap();
                    total += 1;
                }
                writer.write_in_transaction(&messages).await.unwrap();
                total += messages.len();
            }
            total
        }));
    }
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    done.store(true, Ordering::Release);
    let mut read = 0;
    for reader in readers {
        read += reader.await.unwrap();
    }
    assert_eq!(read, written);
}

#[tokio::test]
async fn a_batch_larger_than_a_stream_ever_holds_is_refused_at_once() {
    let broker = Chanbuf::builder().capacity(3).build().unwrap();
    let _held = open(&broker, "a").await;
    let batch: Vec<_> = (0..4).map(|_| message("a", "x")).collect();
    let error = broker
        .writer()
        .write_in_transaction(&batch)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(!error.is_retryable());
}

/// Members take, settle with outputs, and go in the middle, in random order; the model is what each
/// delivery's settlement promised.
#[tokio::test]
async fn each_input_has_its_outputs_once_whoever_goes_in_the_middle() {
    for seed in 0..200 {
        let rng = &mut Rng::with_seed(seed);
        let broker = Chanbuf::builder()
            .record(10_000)
            .largest_message(LARGEST)
            .unheld(Unheld::Discard);
        let broker = broker.build().unwrap();
        broker
            .create_group("in", "g", &StartFrom::Earliest)
            .unwrap();
        let count = rng.usize(1..60);
        let inputs: Vec<_> = (0..count)
            .map(|n| {
                let input = Message::builder("in").data(n.to_string());
                input.key((n % 5).to_string()).build().unwrap()
            })
            .collect();
        broker.writer().write(&inputs).await.unwrap();
        let mut members = Vec::new();
        let mut done = 0;
        while done < count {
            if members.len() < 3 {
                members.push((open(&broker, "in").await, Vec::new()));
            }
            let at = rng.usize(0..members.len());
            let (subscription, held): &mut (_, Vec<Delivery>) = &mut members[at];
            match rng.u8(0..10) {
                0 => {
                    // A crash: what it holds comes again, and its late settlements count for nothing.
                    let (mut subscription, held) = members.swap_remove(at);
                    subscription.close().await.unwrap();
                    let mut parts: Vec<_> = held.into_iter().map(|d| part(d, rng)).collect();
                    let lost = parts.len();
                    let report = subscription.settle_in_transaction(&mut parts).await;
                    assert_eq!(report.unwrap().lost.len(), lost);
                }
                1..=4 => held.extend(take(subscription, rng.usize(1..10))),
                5 => {
                    // One that cannot be written keeps all from being settled.
                    let mut parts: Vec<_> = held.drain(..).map(|d| part(d, rng)).collect();
                    if let Some(first) = parts.first_mut() {
                        first.outputs.push(message("out", vec![0; LARGEST + 1]));
                        let before = broker.recorded("out").unwrap().len();
                        let error = subscription.settle_in_transaction(&mut parts).await;
                        assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge);
                        assert_eq!(broker.recorded("out").unwrap().len(), before);
                        parts[0].outputs.pop();
                    }
                    done += settle(subscription, parts).await;
                }
                6 => {
                    let parts = held.drain(..).map(|d| part(d, rng)).collect();
                    done += settle(subscription, parts).await;
                }
                _ => {
                    let some = rng.usize(0..=held.len());
                    let parts = held.drain(..some).map(acknowledged).collect();
                    done += settle(subscription, parts).await;
                }
            }
        }
        let mut by_input: HashMap<String, Vec<String>> = HashMap::new();
        let mut last: HashMap<usize, usize> = HashMap::new();
        for output in broker.recorded("out").unwrap() {
            let text = String::from_utf8(output.data().to_vec()).unwrap();
            let (input, which) = text.split_once(' ').unwrap();
            by_input.entry(input.into()).or_default().push(which.into());
            let number: usize = input.parse().unwrap();
            let before = last.insert(number % 5, number);
            assert!(before.is_none_or(|before| before <= number), "seed {seed}");
        }
        assert_eq!(by_input.len(), count, "seed {seed}");
        assert!(by_input.values().all(|w| w == &["0", "1"]), "seed {seed}");
        let audited = broker.recorded("audit").unwrap().len();
        assert_eq!(audited, count, "seed {seed}: the other stream has its part");
    }
}

/// Acknowledges with outputs, or, now and then, gives it back without.
fn part(delivery: Delivery, rng: &mut Rng) -> TransactionPart {
    if rng.u8(0..6) == 0 {
        return TransactionPart {
            settlement: delivery.token.retry(None),
            outputs: Vec::new(),
        };
    }
    acknowledged(delivery)
}

fn acknowledged(delivery: Delivery) -> TransactionPart {
    let input = String::from_utf8(delivery.message.data().to_vec()).unwrap();
    TransactionPart {
        settlement: delivery.ack(),
        outputs: vec![
            message("out", format!("{input} 0")),
            message("audit", input.clone()),
            message("out", format!("{input} 1")),
        ],
    }
}

/// Settles; says how many were acknowledged.
async fn settle(subscription: &mut Box<dyn Subscription>, parts: Vec<TransactionPart>) -> usize {
    // Once one is given back, all behind it go back too: some may be of its key.
    let mut parts = parts;
    if let Some(first) = parts.iter().position(|part| part.outputs.is_empty()) {
        for part in &mut parts[first..] {
            part.outputs.clear();
            part.settlement.action = streams_core::SettleAction::Release;
        }
    }
    let acknowledged = parts.iter().filter(|part| !part.outputs.is_empty()).count();
    let report = subscription
        .settle_in_transaction(&mut parts)
        .await
        .unwrap();
    assert!(parts.is_empty() && report.lost.is_empty());
    acknowledged
}
