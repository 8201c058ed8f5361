//! The runner against a model of a driver: thousands of seeded schedules of delays, duplicates,
//! failed settlements, dropped connections, lost leases and revoked partitions.
//!
//! `STREAMS_MODEL_SCHEDULES=1000000` runs more of them; `STREAMS_MODEL_SEED=17` runs just one.

mod app;
mod broker;
mod driver;
mod partitions;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// Schedules in an ordinary run, over all tests of this file.
const SCHEDULES: u64 = 10_000;

#[test]
fn positional_driver() {
    explore(broker::Kind::Positional, false);
}

#[test]
fn leasing_driver() {
    explore(broker::Kind::Leasing, false);
}

#[test]
fn positional_driver_exactly_once() {
    explore(broker::Kind::Positional, true);
}

#[test]
fn leasing_driver_exactly_once() {
    explore(broker::Kind::Leasing, true);
}

fn explore(kind: broker::Kind, exactly_once: bool) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    if let Some(seed) = number("STREAMS_MODEL_SEED") {
        return schedule(kind, exactly_once, seed);
    }
    let count = number("STREAMS_MODEL_SCHEDULES").unwrap_or(SCHEDULES) / 4;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..count).step_by(threads as usize) {
                    let run = catch_unwind(AssertUnwindSafe(|| schedule(kind, exactly_once, seed)));
                    assert!(
                        run.is_ok(),
                        "{kind:?}, exactly once: {exactly_once}: seed {seed} failed; run it alone with \
                         STREAMS_MODEL_SEED={seed}"
                    );
                }
            });
        }
    });
    println!("{kind:?}: {count} schedules");
}

/// One schedule, decided by its seed alone.
fn schedule(kind: broker::Kind, exactly_once: bool, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(app::run(World::new(kind, exactly_once, seed)));
}
