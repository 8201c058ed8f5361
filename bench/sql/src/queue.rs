//! The queue: handled messages a second, beside what the server commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use streams_core::{Bus, Driver as _, StartFrom};
use streams_sql::SqlQueue;
use tokio::sync::Notify;

use crate::setup::{Setup, message};

const MESSAGES: usize = 40_000;
const WORKERS: usize = 8;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let name = format!("bench_queue_{}", std::process::id());
    let commits = commits(setup);
    let queue = SqlQueue::builder(setup.pool.clone()).table(&name).build();
    let queue = queue.expect("valid settings");
    let took = setup.runtime.block_on(async {
        queue.migrate().await.expect("tables");
        queue
            .create_group("bench", "workers", &StartFrom::Latest)
            .await
            .expect("a group");
        let writer = queue.writer();
        let messages: Vec<_> = (0..MESSAGES).map(message).collect();
        for batch in messages.chunks(500) {
            writer.write(batch).await.expect("written");
        }
        let (count, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let begun = Instant::now();
        let bus = Bus::new(queue.clone());
        for _ in 0..WORKERS {
            let (count, all) = (count.clone(), all.clone());
            bus.subscribe_stream("bench", move |_, _| {
                if count.fetch_add(1, Ordering::Relaxed) + 1 == MESSAGES {
                    all.notify_one();
                }
                std::future::ready(())
            })
            .group("workers")
            .register()
            .expect("a valid subscription");
        }
        bus.start().await.expect("the bus starts");
        all.notified().await;
        let took = begun.elapsed();
        bus.shutdown(Duration::from_secs(10)).await;
        queue.delete_stream("bench").await.expect("deleted");
        took
    });
    let rate = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
    (
        rate(MESSAGES, took),
        format!(
            "{WORKERS} readers of a group, batches as they come; one connection commits {commits:.0} single rows/s"
        ),
    )
}

/// Transactions of one row each that the server commits in a second, for one connection.
fn commits(setup: &Setup) -> f64 {
    const COMMITS: usize = 2_000;
    let table = format!("bench_commits_{}", std::process::id());
    setup.execute(format!("CREATE TABLE {table} (id BIGINT)"));
    let begun = Instant::now();
    for i in 0..COMMITS {
        setup.execute(format!("INSERT INTO {table} VALUES ({i})"));
    }
    let took = begun.elapsed();
    setup.drop(&table);
    COMMITS as f64 / took.as_secs_f64()
}
