//! A server, and streams on it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, Pipeline};
use streams_bench::SIZE;
use streams_core::{Driver as _, Message, unix_millis};
use streams_redis::Redis;
use streams_services::Service;
use tokio::runtime::{Builder, Runtime};

pub(crate) const GROUP: &str = "bench";
pub(crate) const BATCH: usize = 100;

pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) runtime: Runtime,
    streams: AtomicUsize,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            url: Service::Redis.address().expect("a server"),
            runtime: Builder::new_multi_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            streams: AtomicUsize::new(0),
        }
    }

    pub(crate) fn driver(&self) -> Redis {
        Redis::builder(&self.url).build().expect("valid settings")
    }

    /// A connection of the client's own, with the settings the driver has.
    pub(crate) async fn raw(&self) -> MultiplexedConnection {
        let info = self
            .url
            .as_str()
            .into_connection_info()
            .expect("a valid URL");
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config =
            AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        let client = Client::open(info).expect("a valid URL");
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.expect("a connection")
    }

    /// The name of a stream that no other run uses.
    pub(crate) fn stream(&self) -> String {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        format!("bench-{}-{number}", std::process::id())
    }

    pub(crate) fn delete(&self, stream: &str) {
        let deleted = self.runtime.block_on(self.driver().delete_stream(stream));
        deleted.expect("deleted");
    }

    /// A stream with so many entries.
    pub(crate) fn fill(&self, count: usize) -> String {
        let stream = self.stream();
        let writer = self.driver().writer();
        self.runtime.block_on(async {
            for batch in messages(&stream, count).chunks(1_000) {
                writer.write(batch).await.expect("written");
            }
        });
        stream
    }
}

pub(crate) fn key(stream: &str) -> String {
    format!("pulse:stream:{stream}")
}

/// Messages of 256 bytes with keys.
pub(crate) fn messages(stream: &str, count: usize) -> Vec<Message> {
    let message = |i| {
        let message = Message::builder(stream).key(format!("key-{}", i % 100));
        message
            .data(vec![b'x'; SIZE])
            .build()
            .expect("a valid message")
    };
    (0..count).map(message).collect()
}

/// Adds what the driver adds for a message.
pub(crate) fn add(pipeline: &mut Pipeline, key: &str, message: &Message) {
    pipeline.cmd("XADD").arg(key).arg("*");
    pipeline.arg("n").arg(message.stream().as_str());
    pipeline.arg("p").arg(&message.data()[..]);
    pipeline.arg("i").arg(message.id().as_str());
    pipeline.arg("m").arg(unix_millis(message.time()));
    if let Some(key) = message.key() {
        pipeline.arg("k").arg(key.as_bytes());
    }
}
