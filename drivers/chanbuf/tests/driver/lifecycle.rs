//! Closing, cancelling, and what is left after it.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::task::{Context, Waker};

use streams_chanbuf::Chanbuf;
use streams_core::{Driver, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::{PATIENCE, SECOND, broker, join, message, messages, number, numbers, write};

#[tokio::test(start_paused = true)]
async fn a_closed_subscription_says_so() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    tap.0.close().await.unwrap();
    tap.0.close().await.unwrap();
    let mut out = Vec::new();
    let received = timeout(PATIENCE, tap.0.receive(NonZeroUsize::MIN, &mut out)).await;
    assert_eq!(received.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(matches!(
        tap.0.try_receive(NonZeroUsize::MIN, &mut out),
        None | Some(Err(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn each_writer_is_closed_by_itself() {
    let broker = broker();
    let mut tap = join(&broker, "s", "g").await;
    let (one, other) = (broker.writer(), broker.writer());
    let (a, b) = tokio::join!(one.close(), one.close());
    a.unwrap();
    b.unwrap();
    one.close().await.unwrap();
    let batch = messages("s", 0..2);
    for result in [
        one.write(&batch).await,
        one.write_at(&batch, std::time::SystemTime::now()).await,
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.indices().collect::<Vec<_>>(), [0, 1]);
        assert!(
            error
                .failures()
                .iter()
                .all(|(_, e)| e.kind() == ErrorKind::Closed)
        );
    }
    assert!(!matches!(one.try_write(&batch), Some(Ok(()))));
    other.write(&batch).await.unwrap();
    broker.writer().write(&messages("s", 2..3)).await.unwrap();
    assert_eq!(tap.handle(3).await, [0, 1, 2]);
    assert!(one.write(&[]).await.is_ok() && other.write(&[]).await.is_ok());
}

/// Receives are dropped at random points while messages are published, by one member of a group and
/// by several.
async fn cancelled_receives(members: usize, seed: u64) {
    const COUNT: usize = 10_000;
    let broker = broker();
    let mut seen = HashSet::new();
    let mut taps = Vec::new();
    for _ in 0..members {
        taps.push(join(&broker, "s", "g").await);
    }
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    for (i, mut tap) in taps.into_iter().enumerate() {
        let sender = sender.clone();
        let mut rng = fastrand::Rng::with_seed(seed * 100 + i as u64);
        tokio::spawn(async move {
            loop {
                let mut out = Vec::new();
                let max = NonZeroUsize::new(rng.usize(1..20)).unwrap();
                let polls = rng.usize(0..4);
                let received = tokio::select! {
                    biased;
                    received = tap.0.receive(max, &mut out) => Some(received),
                    () = async {
                        for _ in 0..polls {
                            tokio::task::yield_now().await;
                        }
                    } => None,
                };
                if received.is_none() {
                    assert!(out.is_empty(), "a dropped receive took something");
                    // Now and then it does not ask for a while.
                    if rng.u8(0..20) == 0 {
                        tokio::time::sleep(SECOND / 100).await;
                    }
                    continue;
                }
                for one in &out {
                    if sender.send(number(&one.message)).is_err() {
                        return;
                    }
                }
                tap.ack(out);
            }
        });
    }
    tokio::spawn(async move {
        let writer = broker.writer();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = 0;
        while next < COUNT {
            let count = rng.usize(1..30).min(COUNT - next);
            writer
                .write(&messages("s", next..next + count))
                .await
                .unwrap();
            next += count;
            tokio::task::yield_now().await;
        }
    });
    let all = async {
        while seen.len() < COUNT {
            assert!(
                seen.insert(arrived.recv().await.unwrap()),
                "seed {seed}: one came twice"
            );
        }
    };
    timeout(PATIENCE, all)
        .await
        .unwrap_or_else(|_| panic!("seed {seed}: one never came"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_when_receives_are_cancelled() {
    for seed in 0..5 {
        cancelled_receives(1, seed).await;
        cancelled_receives(3, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_receives_are_cancelled_on_several_threads() {
    for seed in 0..3 {
        cancelled_receives(4, seed).await;
    }
}

/// The one that has waited longest is woken, and dropped before it looks.
#[tokio::test(start_paused = true)]
async fn a_wake_up_that_is_not_used_goes_to_another() {
    for dropped in [0, 1] {
        let broker = broker();
        let mut taps = [join(&broker, "s", "g").await, join(&broker, "s", "g").await];
        let mut outs = [Vec::new(), Vec::new()];
        {
            let max = NonZeroUsize::MIN;
            let waits = taps.iter_mut().zip(&mut outs);
            let mut waits: Vec<_> = waits
                .map(|(tap, out)| Some(tap.0.receive(max, out)))
                .collect();
            let mut context = Context::from_waker(Waker::noop());
            for wait in waits.iter_mut().flatten() {
                assert!(wait.as_mut().poll(&mut context).is_pending());
            }
            // It wakes the one that has waited longest, which may be the one that is dropped.
            write(&broker, &[message("s", 1)]).await.unwrap();
            waits[dropped] = None;
            let left = waits[1 - dropped].as_mut().unwrap();
            assert!(
                left.as_mut().poll(&mut context).is_ready(),
                "{dropped} was dropped"
            );
        }
        assert!(outs[dropped].is_empty());
        assert_eq!(numbers(&outs[1 - dropped]), [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_gives_way_and_is_dropped_leaves_nobody_waiting() {
    let broker = broker();
    let mut served = join(&broker, "s", "g").await;
    let mut waits = join(&broker, "s", "g").await;
    write(&broker, &messages("s", 0..2)).await.unwrap();
    served.handle(1).await;
    served.handle(1).await;
    // Never asks: the other gives way to it.
    let _new = join(&broker, "s", "g").await;
    let waits = tokio::spawn(async move { number(&waits.one().await.message) });
    tokio::task::yield_now().await;
    let mut out = Vec::new();
    write(&broker, &messages("s", 2..4)).await.unwrap();
    {
        let mut receive = served.0.receive(NonZeroUsize::MIN, &mut out);
        let _ = receive
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
    let got = timeout(PATIENCE, waits).await.expect("woken").unwrap();
    assert!([2, 3].contains(&got));
}

/// What a write says is so, also while its writer is being closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn closing_while_writing_loses_nothing_that_was_confirmed() {
    for _ in 0..20 {
        let broker = Chanbuf::builder().capacity(16).build().unwrap();
        let mut tap = join(&broker, "s", "g").await;
        let writer = broker.writer();
        let mut publishers = JoinSet::new();
        for publisher in 0..8 {
            let writer = writer.clone();
            publishers.spawn(async move {
                let mut written = Vec::new();
                for n in (publisher * 10_000..).step_by(3) {
                    let batch = messages("s", n..n + 3);
                    match writer.write(&batch).await {
                        Ok(()) => written.extend(n..n + 3),
                        Err(error) => {
                            let failed: Vec<_> = error.indices().collect();
                            assert!(
                                error
                                    .failures()
                                    .iter()
                                    .all(|(_, e)| e.kind() == ErrorKind::Closed)
                            );
                            written.extend((0..3).filter(|i| !failed.contains(i)).map(|i| n + i));
                            return written;
                        }
                    }
                }
                written
            });
        }
        let mut seen = HashSet::new();
        while seen.len() < 200 {
            seen.extend(tap.handle(1).await);
        }
        let closing = tokio::spawn(async move { tokio::join!(writer.close(), writer.close()) });
        let mut written = HashSet::new();
        let mut reading = true;
        while reading || !publishers.is_empty() {
            let some = tap.now(64);
            reading = !some.is_empty();
            seen.extend(numbers(&some));
            tap.ack(some);
            while let Some(one) = publishers.try_join_next() {
                written.extend(one.unwrap());
            }
            tokio::task::yield_now().await;
        }
        seen.extend(numbers(&tap.now(1000)));
        closing.await.unwrap().0.unwrap();
        assert_eq!(seen, written);
    }
}
