//! For tests in which writers, relays and the destination do things at random moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use streams_core::ErrorKind;
use tokio::time::sleep;

use super::Destination;

/// The seeds of a random test: so many new ones. One that failed is tried again by `STREAMS_SEED=17`.
///
/// # Panics
/// When that is no number.
#[must_use]
pub fn seeds(rounds: usize) -> Vec<u64> {
    match std::env::var("STREAMS_SEED") {
        Ok(seed) => vec![seed.parse().expect("STREAMS_SEED is a number")],
        Err(_) => (0..rounds).map(|_| fastrand::u64(..1_000_000)).collect(),
    }
}

/// The stream of a message: messages of one key go to two.
#[must_use]
pub fn stream_of(number: usize) -> &'static str {
    if number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    }
}

impl Destination {
    /// Fails now and then, wholly or for one stream, or does not answer, until it is `done`. Each lasts
    /// for `longest` at most.
    pub async fn weather(&self, mut random: Rng, longest: Duration, done: &AtomicBool) {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        while !done.load(Ordering::Relaxed) {
            self.hangs.send_replace(false);
            match random.u8(..5) {
                0 => self.fail(|_| Some(ErrorKind::Unavailable)),
                1 => {
                    let is_odd = |name: &str| name == stream_of(1);
                    self.fail(move |message| {
                        is_odd(message.stream().as_str()).then_some(ErrorKind::Unavailable)
                    });
                }
                2 => {
                    self.hangs.send_replace(true);
                }
                _ => self.heal(),
            }
            sleep(Duration::from_millis(random.u64(..longest))).await;
        }
        self.hangs.send_replace(false);
        self.heal();
    }

    /// Checks that all that was committed has arrived, nothing else has, and that of each key and stream
    /// came in order; `committed` has the numbers that are the data of the messages of each key.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check(&self, committed: impl IntoIterator<Item = (&'static str, Vec<usize>)>) {
        let mut expected = BTreeMap::<_, Vec<_>>::new();
        for (key, numbers) in committed {
            for number in numbers {
                let lane = format!("{}/{key}", stream_of(number));
                expected.entry(lane).or_default().push(number.to_string());
            }
        }
        let (lanes, again) = self.first_arrivals();
        let all: usize = lanes.values().map(Vec::len).sum();
        println!("{all} messages, {again} arrived again");
        assert_eq!(lanes, expected);
    }
}
