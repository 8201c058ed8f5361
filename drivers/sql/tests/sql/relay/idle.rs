//! What a relay costs that has nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolOptions;
use streams_sql::{Outbox, RelayBuilder};
use tokio::time::{sleep, timeout};

use super::{Destination, LONG, commit, relay, run, until_empty};
use crate::outbox::outbox;
use crate::support::{Test, TestDatabase, message};

on_each_database! {
    an_idle_relay_asks_once_in_an_interval,
    one_that_renews_its_lease_asks_once_more,
    one_that_stands_by_asks_once_in_an_interval,
}

const INTERVAL: Duration = Duration::from_millis(100);

/// Longer than the test.
const HOUR: Duration = Duration::from_secs(3600);

/// Statements of a pool: each takes a connection.
#[derive(Clone, Default)]
struct Statements(Arc<AtomicUsize>);

impl Statements {
    /// The same table through a pool that counts.
    async fn of<DB: TestDatabase>(&self, test: &Test<DB>) -> Outbox<DB> {
        let count = self.0.clone();
        let pool = PoolOptions::<DB>::new().before_acquire(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(true) })
        });
        let pool = pool.connect(&test.url).await.unwrap();
        Outbox::builder(pool).build().unwrap()
    }

    /// Waits for so many more, and says how long that took.
    async fn more(&self, count: usize) -> Duration {
        let (from, before) = (Instant::now(), self.0.load(Ordering::SeqCst));
        let waiting = async {
            while self.0.load(Ordering::SeqCst) < before + count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, waiting).await.expect("it looks now and then");
        from.elapsed()
    }
}

fn idle<DB: TestDatabase>(outbox: &Outbox<DB>, to: &Destination) -> RelayBuilder<DB> {
    let relay = relay(outbox, to).lease(HOUR);
    relay.poll_interval(Duration::from_millis(1), INTERVAL)
}

/// A busy machine makes an idle relay slower; nothing makes it faster.
async fn measure<DB: TestDatabase>(
    test: Test<DB>,
    settings: impl Fn(RelayBuilder<DB>) -> RelayBuilder<DB>,
    in_an_interval: usize,
) {
    let statements = Statements::default();
    outbox(&test).await;
    let (outbox, to) = (statements.of(&test).await, Destination::new());
    let running = run(settings(idle(&outbox, &to)));
    commit(&outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    until_empty(&outbox).await;
    // It looks again soon, then more and more rarely.
    statements.more(10 * in_an_interval).await;
    let count = 10 * in_an_interval;
    let took = statements.more(count).await;
    println!("{count} statements in {took:?}");
    assert!(took >= 8 * INTERVAL, "{took:?}");
    running.stop().await;
}

async fn an_idle_relay_asks_once_in_an_interval<DB: TestDatabase>(test: Test<DB>) {
    measure(test, |relay| relay, 1).await;
}

/// Each third of the lease, which is an interval here.
async fn one_that_renews_its_lease_asks_once_more<DB: TestDatabase>(test: Test<DB>) {
    measure(test, |relay| relay.lease(3 * INTERVAL), 2).await;
}

async fn one_that_stands_by_asks_once_in_an_interval<DB: TestDatabase>(test: Test<DB>) {
    let statements = Statements::default();
    let (outbox, to) = (outbox(&test).await, Destination::new());
    let active = run(idle(&outbox, &to));
    commit(&outbox, &[message("orders", "a", 0)]).await;
    to.until_count(1).await;
    let standby = run(idle(&statements.of(&test).await, &to));
    statements.more(20).await;
    // Each time it asks it tries to take the lease, and to make its row.
    let took = statements.more(20).await;
    println!("20 statements in {took:?}");
    assert!(took >= 8 * INTERVAL, "{took:?}");
    active.stop().await;
    standby.stop().await;
}
