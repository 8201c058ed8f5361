//! Servers, and short ways to write and read.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use streams_core::{
    Delivery, Driver as _, Message, ReadOptions, Received, SettleAction, SettleReport,
    Subscription, from_unix_millis,
};
use streams_redis::{Redis, RedisBuilder, metrics};
use streams_services::{Server, Service};
use tokio::time::timeout;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const GROUP: &str = "group";
/// Short, for what crashed to come again soon.
pub(crate) const LEASE: Duration = Duration::from_millis(1500);

/// A stream of its own on a server.
pub(crate) struct Test {
    pub(crate) url: String,
    pub(crate) stream: String,
}

impl Test {
    /// On the server that all tests share.
    pub(crate) async fn shared() -> Self {
        let address = tokio::task::spawn_blocking(|| Service::Redis.address().unwrap());
        Self::at(&address.await.unwrap())
    }

    /// On a server of its own.
    pub(crate) async fn own(recipe: streams_services::Redis) -> (Self, Server) {
        let server = tokio::task::spawn_blocking(|| recipe.start().unwrap());
        let server = server.await.unwrap();
        (Self::at(&server.url()), server)
    }

    pub(crate) fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            stream: format!("test-{:016x}", fastrand::u64(..)),
        }
    }

    pub(crate) fn key(&self) -> String {
        format!("pulse:stream:{}", self.stream)
    }

    pub(crate) fn builder(&self) -> RedisBuilder {
        Redis::builder(&self.url).lease(LEASE)
    }

    pub(crate) fn driver(&self) -> Redis {
        self.builder().build().unwrap()
    }

    /// So many messages, with their numbers as data.
    pub(crate) fn messages(&self, count: usize) -> Vec<Message> {
        (0..count).map(|i| self.message(&i.to_string())).collect()
    }

    pub(crate) fn message(&self, data: &str) -> Message {
        let message = Message::builder(&self.stream).data(data.to_owned());
        message.time(from_unix_millis(1_000)).build().unwrap()
    }

    pub(crate) async fn write(&self, messages: &[Message]) {
        self.driver().writer().write(messages).await.unwrap();
    }

    pub(crate) fn options(&self) -> ReadOptions {
        ReadOptions::new(&self.stream).unwrap()
    }

    pub(crate) fn in_group(&self) -> ReadOptions {
        self.options().group(GROUP).unwrap()
    }

    pub(crate) async fn member(&self) -> Box<dyn Subscription> {
        self.read(&self.in_group()).await
    }

    pub(crate) async fn read(&self, options: &ReadOptions) -> Box<dyn Subscription> {
        self.driver().reader().subscribe(options).await.unwrap()
    }

    /// What the server answers.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.raw().await).await.unwrap()
    }

    pub(crate) async fn raw(&self) -> MultiplexedConnection {
        let client = redis::Client::open(&*self.url).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// How many entries are lost, as the metric says.
    pub(crate) fn lost(&self, reason: &str) -> u64 {
        let lost = |(stream, why): &(String, String)| *stream == self.stream && why == reason;
        let counts = counts();
        counts
            .iter()
            .filter(|(labels, _)| lost(labels))
            .map(|(_, count)| count)
            .sum()
    }
}

/// So many messages, however they come.
pub(crate) async fn take(reader: &mut dyn Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let max = NonZeroUsize::new(count - all.len()).unwrap();
        let received = timeout(PATIENCE, reader.receive(max, &mut all)).await;
        let received = received.unwrap_or_else(|_| panic!("{} of {count} came", all.len()));
        assert_eq!(received.unwrap(), Received::Deliveries);
    }
    all
}

/// The data of so many messages, which are acknowledged.
pub(crate) async fn handle(reader: &mut dyn Subscription, count: usize) -> Vec<String> {
    let deliveries = take(reader, count).await;
    let data = deliveries.iter().map(|d| text(&d.message)).collect();
    settle(reader, deliveries, SettleAction::Ack).await;
    data
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.data().to_vec()).unwrap()
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| i.to_string()).collect()
}

pub(crate) async fn settle(
    reader: &mut dyn Subscription,
    deliveries: Vec<Delivery>,
    action: SettleAction,
) -> SettleReport {
    let mut settlements = deliveries
        .into_iter()
        .map(|d| d.token.settle(action))
        .collect();
    reader.settle(&mut settlements).await.unwrap()
}

/// How many entries the group has pending.
pub(crate) async fn pending(test: &Test) -> u64 {
    pending_of(test, GROUP).await
}

pub(crate) async fn pending_of(test: &Test, group: &str) -> u64 {
    let mut pending = Cmd::new();
    pending.arg("XPENDING").arg(test.key()).arg(group);
    let (count, ..): (u64, redis::Value, redis::Value, redis::Value) = test.ask(&pending).await;
    count
}

/// What was warned of by this thread as long as it is there.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let warnings = Self::default();
        let listening = tracing_subscriber::registry().with(warnings.clone());
        (warnings, tracing::subscriber::set_default(listening))
    }

    /// Those that have this in them.
    pub(crate) fn with(&self, part: &str) -> Vec<String> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|one| one.contains(part))
            .cloned()
            .collect()
    }
}

impl<S: tracing::Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        if *event.metadata().level() == tracing::Level::WARN {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

/// Fails if something comes within a time in which it would.
pub(crate) async fn nothing_comes(reader: &mut dyn Subscription) {
    let mut out = Vec::new();
    let receive = reader.receive(NonZeroUsize::MIN, &mut out);
    let within = timeout(Duration::from_millis(600), receive).await;
    assert!(within.is_err(), "something came: {out:?}");
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, looking).await.is_err() {
        panic!("waited in vain until {what}");
    }
}

/// Numbers by stream and reason.
type Counts = HashMap<(String, String), u64>;

/// What was counted since the process began.
fn counts() -> Counts {
    static RECORDED: LazyLock<(Snapshotter, Mutex<Counts>)> = LazyLock::new(|| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        recorder.install().unwrap();
        (snapshotter, Mutex::default())
    });
    let (snapshotter, all) = &*RECORDED;
    let mut all = all.lock().unwrap();
    // All is 0 again when it was read.
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        if let (metrics::LOST, DebugValue::Counter(count)) = (key.name(), value) {
            let label = |name| {
                let mut labels = key.labels();
                labels
                    .find(|l| l.key() == name)
                    .map(|l| l.value().to_owned())
                    .unwrap()
            };
            *all.entry((label("stream"), label("reason"))).or_default() += count;
        }
    }
    all.clone()
}

/// Begins to count, before anything is lost.
pub(crate) fn count_losses() {
    counts();
}
