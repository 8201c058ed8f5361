//! Scheduled messages: 100,000 that are due at once, moved by four and handled.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use redis::Script;
use redis::aio::MultiplexedConnection;
use streams_bench::pairs::compare;
use streams_core::Driver as _;
use tokio::sync::Notify;

use crate::read::{create, handle, read_all};
use crate::setup::{GROUP, Setup, key, messages};

const MESSAGES: usize = 100_000;
const MOVERS: usize = 4;
/// Long enough to schedule all of them; then they are made due at once.
const AHEAD: Duration = Duration::from_secs(3600);

/// What one would write by hand.
const MOVE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 500)
for _, id in ipairs(due) do
  local body = redis.call('HGET', KEYS[3], id)
  redis.call('XADD', KEYS[1], '*', 'n', 'bench', 'i', id, 'p', body)
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id)
end
return #due";

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let compared = compare(|| raw(setup), || ours(setup));
    (
        1.0 / compared.ratio,
        format!(
            "{:.2} s from the due time until all are handled; by hand {:.2} s",
            compared.b.as_secs_f64(),
            compared.a.as_secs_f64()
        ),
    )
}

fn raw(setup: &Setup) -> Duration {
    let stream = setup.stream();
    let keys = [
        key(&stream),
        format!("{{{stream}}}:due"),
        format!("{{{stream}}}:bodies"),
    ];
    let took = setup.runtime.block_on(async {
        let mut connection = setup.raw().await;
        create(&mut connection, &keys[0]).await;
        let due = SystemTime::now() + AHEAD;
        let millis = streams_core::unix_millis(due);
        for batch in messages(&stream, MESSAGES).chunks(1_000) {
            let mut pipeline = redis::pipe();
            for message in batch {
                let id = message.id().as_str();
                pipeline
                    .cmd("ZADD")
                    .arg(&keys[1])
                    .arg(millis)
                    .arg(id)
                    .ignore();
                pipeline
                    .cmd("HSET")
                    .arg(&keys[2])
                    .arg(id)
                    .arg(&message.data()[..])
                    .ignore();
            }
            pipeline
                .exec_async(&mut connection)
                .await
                .expect("scheduled");
        }
        let begun = make_due(setup, &keys[1]).await;
        let (keys, script) = (&keys, &Script::new(MOVE));
        let moving = (0..MOVERS).map(|_| async {
            let mut connection: MultiplexedConnection = setup.raw().await;
            loop {
                let mut invocation = script.prepare_invoke();
                for key in keys {
                    invocation.key(key);
                }
                let moved = invocation.invoke_async::<usize>(&mut connection).await;
                if moved.expect("moved") == 0 {
                    break;
                }
            }
        });
        let reading = read_all(&mut connection, &keys[0], MESSAGES);
        tokio::join!(join_all(moving), reading);
        begun.elapsed()
    });
    setup.delete(&stream);
    took
}

fn ours(setup: &Setup) -> Duration {
    let stream = setup.stream();
    let took = setup.runtime.block_on(async {
        let due = SystemTime::now() + AHEAD;
        let writer = setup.driver().writer();
        for batch in messages(&stream, MESSAGES).chunks(1_000) {
            writer.write_at(batch, due).await.expect("scheduled");
        }
        let (count, all) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()));
        let buses: Vec<_> = (0..MOVERS)
            .map(|_| handle(setup, &stream, MESSAGES, &count, &all))
            .collect();
        for bus in &buses {
            bus.start().await.expect("the bus starts");
        }
        let key = key(&stream);
        let begun = make_due(setup, &format!("streams:{{{key}}}:{key}:due:")).await;
        all.notified().await;
        let took = begun.elapsed();
        let mut acknowledged = 0;
        for bus in &buses {
            acknowledged += bus.shutdown(Duration::from_secs(10)).await.acknowledged();
        }
        assert_eq!(acknowledged, MESSAGES as u64, "each once in group {GROUP}");
        took
    });
    setup.delete(&stream);
    took
}

/// Moves all due times to the past, in one command.
async fn make_due(setup: &Setup, key: &str) -> Instant {
    let mut connection = setup.raw().await;
    let begun = Instant::now();
    let mut move_all = redis::cmd("ZUNIONSTORE");
    move_all.arg(key).arg(1).arg(key).arg("WEIGHTS").arg(0);
    let moved: redis::RedisResult<usize> = move_all.query_async(&mut connection).await;
    assert_eq!(moved.expect("made due"), MESSAGES);
    begun
}
