//! Reading: entries that are there, taken and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use streams_bench::pairs::compare;
use streams_core::Bus;
use tokio::sync::Notify;

use crate::setup::{BATCH, GROUP, Setup, key};

const MESSAGES: usize = 50_000;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let raw = || {
        let stream = setup.fill(MESSAGES);
        let took = setup.runtime.block_on(async {
            let mut connection = setup.raw().await;
            create(&mut connection, &key(&stream)).await;
            let begun = Instant::now();
            read_all(&mut connection, &key(&stream), MESSAGES).await;
            begun.elapsed()
        });
        setup.delete(&stream);
        took
    };
    let ours = || {
        let stream = setup.fill(MESSAGES);
        let took = setup.runtime.block_on(async {
            let all = Arc::new(Notify::new());
            let bus = handle(setup, &stream, MESSAGES, &Arc::default(), &all);
            let begun = Instant::now();
            bus.start().await.expect("the bus starts");
            all.notified().await;
            let took = begun.elapsed();
            let report = bus.shutdown(Duration::from_secs(10)).await;
            assert_eq!(report.acknowledged(), MESSAGES as u64);
            took
        });
        setup.delete(&stream);
        took
    };
    let compared = compare(raw, ours);
    let rate = |took: Duration| MESSAGES as f64 / took.as_secs_f64();
    (
        compared.ratio,
        format!(
            "{:.0} messages/s; raw {:.0}",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}

pub(crate) async fn create(connection: &mut MultiplexedConnection, key: &str) {
    let mut create = cmd("XGROUP");
    create
        .arg("CREATE")
        .arg(key)
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM");
    let created: redis::RedisResult<()> = create.query_async(connection).await;
    created.expect("a group");
}

/// A bus whose handler does nothing but count.
pub(crate) fn handle(
    setup: &Setup,
    stream: &str,
    messages: usize,
    count: &Arc<AtomicUsize>,
    all: &Arc<Notify>,
) -> Bus<streams_redis::Redis> {
    let bus = Bus::new(setup.driver());
    let (count, all) = (count.clone(), all.clone());
    bus.subscribe_stream(stream, move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == messages {
            all.notify_one();
        }
        std::future::ready(())
    })
    .group(GROUP)
    .register()
    .expect("a valid subscription");
    bus
}

/// Takes and acknowledges until so many have come.
pub(crate) async fn read_all(connection: &mut MultiplexedConnection, key: &str, messages: usize) {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(GROUP)
        .arg("raw")
        .arg("COUNT")
        .arg(BATCH);
    read.arg("BLOCK").arg(100).arg("STREAMS").arg(key).arg(">");
    let mut seen = 0;
    while seen < messages {
        let answer: Value = read.query_async(connection).await.expect("entries");
        let ids = ids(answer);
        if ids.is_empty() {
            continue;
        }
        seen += ids.len();
        let mut ack = cmd("XACK");
        ack.arg(key).arg(GROUP).arg(&ids);
        let acknowledged: usize = ack.query_async(connection).await.expect("acknowledged");
        assert_eq!(acknowledged, ids.len());
    }
}

fn ids(answer: Value) -> Vec<Vec<u8>> {
    let array = |value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let Some(stream) = array(answer).pop() else {
        return Vec::new();
    };
    let entries = array(stream).pop().map(array).unwrap_or_default();
    let id = |entry| match array(entry).swap_remove(0) {
        Value::BulkString(id) => id,
        other => panic!("no id: {other:?}"),
    };
    entries.into_iter().map(id).collect()
}
