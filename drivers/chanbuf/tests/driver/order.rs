//! Order per key, whoever joins and leaves.

use std::collections::HashMap;

use streams_core::SettleAction;
use tokio::time::Instant;

use crate::common::{SECOND, Tap, broker, join, keyed, number, numbers, write};

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_the_member_that_holds_it_and_moves_on_when_settled() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    let batch = [
        keyed("s", "x", 0),
        keyed("s", "x", 1),
        keyed("s", "y", 2),
        keyed("s", "x", 3),
    ];
    write(&broker, &batch).await.unwrap();
    let first = a.now(1);
    assert_eq!(numbers(&first), [0]);
    let other = b.now(10);
    assert_eq!(numbers(&other), [2], "x is at the other member");
    assert!(b.now(10).is_empty());
    let second = a.now(1);
    assert_eq!(numbers(&second), [1]);
    a.ack(first);
    assert!(b.now(10).is_empty(), "1 is still held");
    a.ack(second);
    let third = b.now(10);
    assert_eq!(numbers(&third), [3]);
    write(&broker, &[keyed("s", "x", 4)]).await.unwrap();
    assert!(a.now(10).is_empty(), "now it is the other way round");
    b.ack(third);
    assert_eq!(numbers(&a.now(10)), [4]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_gets_a_key_as_soon_as_it_is_free() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    write(&broker, &[keyed("s", "x", 0)]).await.unwrap();
    let first = a.now(1);
    write(&broker, &[keyed("s", "x", 1)]).await.unwrap();
    let waits = tokio::spawn(async move { number(&b.one().await.message) });
    tokio::task::yield_now().await;
    a.ack(first);
    assert_eq!(waits.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_gets_more_of_the_key_it_holds() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    write(&broker, &[keyed("s", "x", 0)]).await.unwrap();
    let _first = a.now(1);
    let waits = tokio::spawn(async move { number(&a.one().await.message) });
    let looks = tokio::spawn(async move { b.one().await });
    tokio::task::yield_now().await;
    // Both are woken; the second finds that it is not for it.
    write(&broker, &[keyed("s", "x", 1)]).await.unwrap();
    assert_eq!(waits.await.unwrap(), 1);
    looks.abort();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joins_does_not_get_the_keys_others_hold() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let batch: Vec<_> = (0..10).map(|n| keyed("s", "x", n)).collect();
    write(&broker, &batch).await.unwrap();
    // Taken while it was the only member.
    let held = a.now(5);
    let mut b = join(&broker, "s", "g").await;
    assert!(b.now(10).is_empty());
    drop(b);
    let mut b = join(&broker, "s", "g").await;
    a.ack(held);
    assert_eq!(numbers(&b.now(10)), [5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_passes_its_keys_on_in_order() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    let batch: Vec<_> = (0..10).map(|n| keyed("s", "x", n)).collect();
    write(&broker, &batch).await.unwrap();
    let mut held = a.now(3);
    // The second is done out of turn.
    let second = held.remove(1);
    a.ack(vec![second]);
    assert!(b.now(10).is_empty());
    drop(a);
    assert_eq!(numbers(&b.now(20)), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
}

/// A put-off message holds up its key and nothing else, however many members there are.
async fn retry_blocks_its_key(members: usize) {
    let broker = broker();
    let mut taps = Vec::new();
    for _ in 0..members {
        taps.push(join(&broker, "s", "g").await);
    }
    let batch: Vec<_> = (0..10)
        .map(|n| keyed("s", if n % 2 == 0 { "even" } else { "odd" }, n))
        .collect();
    write(&broker, &batch).await.unwrap();
    let began = Instant::now();
    let first = taps[0].now(1).remove(0);
    assert_eq!(number(&first.message), 0);
    taps[0].retry(first, SECOND);
    let last = members - 1;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let some = taps[last].now(1);
        seen.extend(numbers(&some));
        taps[last].ack(some);
    }
    assert_eq!(seen, [1, 3, 5, 7, 9]);
    assert!(taps.iter_mut().all(|tap| tap.now(10).is_empty()));
    assert_eq!(taps[last].handle(5).await, [0, 2, 4, 6, 8]);
    assert_eq!(began.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_up_its_key_for_the_only_member() {
    retry_blocks_its_key(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_up_its_key_for_several_members() {
    retry_blocks_its_key(3).await;
}

#[tokio::test(start_paused = true)]
async fn an_earlier_message_of_a_key_goes_to_the_member_that_holds_a_later_one() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    let batch: Vec<_> = (0..3).map(|n| keyed("s", "x", n)).collect();
    write(&broker, &batch).await.unwrap();
    let mut held = a.now(2);
    let first = held.remove(0);
    a.all(vec![first], SettleAction::Retry { after: None });
    assert!(b.now(10).is_empty(), "1 is at the first member");
    assert_eq!(numbers(&a.now(10)), [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_hide_the_others() {
    let broker = broker();
    let mut a = join(&broker, "s", "g").await;
    let mut b = join(&broker, "s", "g").await;
    let mut batch: Vec<_> = (0..5000).map(|n| keyed("s", "hot", n)).collect();
    batch.push(keyed("s", "cold", 5000));
    write(&broker, &batch).await.unwrap();
    let held = a.now(1);
    assert_eq!(numbers(&b.take(1).await), [5000]);
    a.ack(held);
    let mut next = 1;
    while next < 5000 {
        let some = a.some(256).await;
        for n in numbers(&some) {
            assert_eq!(n, next);
            next += 1;
        }
        a.ack(some);
    }
}

/// Members come and go, hold some, settle some one way or another. Of each key, a message comes for
/// the first time only when all before it are acknowledged or at the same member.
#[tokio::test(start_paused = true)]
async fn order_holds_while_members_come_and_go() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let broker = broker();
        broker
            .create_group("s", "g", &streams_core::StartFrom::Latest)
            .unwrap();
        let batch: Vec<_> = (0..600)
            .map(|n| keyed("s", &format!("key {}", n % 7), n))
            .collect();
        write(&broker, &batch).await.unwrap();
        let mut members: Vec<(usize, Tap, Vec<streams_core::Delivery>)> = Vec::new();
        let mut names = 0;
        // Where each message is: at a member, or acknowledged.
        let mut at: HashMap<usize, Option<usize>> = HashMap::new();
        let mut acked = 0;
        while acked < 600 {
            if members.is_empty() || (members.len() < 5 && rng.u8(0..10) == 0) {
                names += 1;
                members.push((names, join(&broker, "s", "g").await, Vec::new()));
            }
            let i = rng.usize(0..members.len());
            let (name, tap, held) = &mut members[i];
            match rng.u8(0..10) {
                0 => {
                    for delivery in held.drain(..) {
                        at.remove(&number(&delivery.message));
                    }
                    members.swap_remove(i);
                }
                1..5 => {
                    for delivery in tap.now(rng.usize(1..20)) {
                        let n = number(&delivery.message);
                        let mut earlier = (n % 7..n).step_by(7);
                        assert!(
                            earlier.all(|n| at
                                .get(&n)
                                .is_some_and(|at| at.is_none_or(|m| m == *name))),
                            "seed {seed}: {n} came too early"
                        );
                        at.insert(n, Some(*name));
                        held.push(delivery);
                    }
                }
                5 if !held.is_empty() => {
                    // From the back, so that what is given back does not pass what is kept.
                    let delivery = held.pop().unwrap();
                    at.remove(&number(&delivery.message));
                    tap.all(vec![delivery], SettleAction::Release);
                }
                _ => {
                    let some: Vec<_> = held.drain(..rng.usize(0..=held.len())).collect();
                    acked += some.len();
                    at.extend(some.iter().map(|d| (number(&d.message), None)));
                    tap.ack(some);
                }
            }
        }
    }
}
