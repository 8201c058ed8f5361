//! From the commit to the handler, at 250 transactions a second.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Postgres;
use streams_core::{Capabilities, Message, NoopWriter, Result, WriteError, Writer, async_trait};
use streams_sql::{Outbox, Relay, WalRelay};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::setup::Setup;

/// Events of a run.
const EVENTS: usize = 10_000;
/// How far they are apart.
const APART: Duration = Duration::from_millis(4);

pub(crate) struct Latency {
    p50: f64,
    p99: f64,
    most: f64,
}

impl Latency {
    /// In milliseconds, with a note.
    pub(crate) fn p99(self) -> (f64, String) {
        let Self { p50, p99, most } = self;
        (
            p99,
            format!("p50 {p50:.2} ms, most {most:.2} ms, {EVENTS} events"),
        )
    }
}

/// Says of each message how long it took from its commit.
struct Measure {
    noop: NoopWriter,
    arrived: mpsc::UnboundedSender<(usize, Instant)>,
}

#[async_trait]
impl Writer for Measure {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let now = Instant::now();
        for message in batch {
            let number = std::str::from_utf8(message.data())
                .ok()
                .and_then(|n| n.parse().ok());
            let _ = self.arrived.send((number.unwrap_or(0), now));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        self.noop.capabilities()
    }
}

pub(crate) fn poll(setup: &Setup) -> Latency {
    measure(setup, |outbox, writer, stopped| async move {
        let relay = Relay::builder(outbox, writer)
            .build()
            .expect("valid settings");
        relay.run(stopped).await.map(drop)
    })
}

pub(crate) fn wal(setup: &Setup) -> Latency {
    let options = setup.options.clone();
    let name = format!("bench_{}", std::process::id());
    let slot = name.clone();
    let measured = measure(setup, |outbox, writer, stopped| async move {
        let relay = WalRelay::builder(outbox, writer)
            .connection(options)
            .publication(&name)
            .slot(&name)
            .build()
            .expect("valid settings");
        relay.run(stopped).await.map(drop)
    });
    setup.execute(format!("SELECT pg_drop_replication_slot('{slot}')"));
    setup.execute(format!("DROP PUBLICATION IF EXISTS {slot}"));
    measured
}

fn measure<F>(
    setup: &Setup,
    run: impl FnOnce(Outbox<Postgres>, Arc<dyn Writer>, Stopped) -> F,
) -> Latency
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (outbox, table) = setup.outbox();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let noop = NoopWriter::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let relay = run(
        outbox.clone(),
        Arc::new(Measure { noop, arrived }),
        Box::pin(async move {
            let _ = stopped.await;
        }),
    );
    let took = setup.runtime.block_on(async {
        let relay = tokio::spawn(relay);
        // The first shows that it runs.
        publish(setup, &outbox, EVENTS).await;
        while arrivals.recv().await.expect("it runs").0 != EVENTS {}
        let mut tick = interval(APART);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut took = Vec::with_capacity(EVENTS);
        for number in 0..EVENTS {
            tick.tick().await;
            let committed = publish(setup, &outbox, number).await;
            loop {
                let (arrived, at) = arrivals.recv().await.expect("it runs");
                if arrived == number {
                    took.push(at.saturating_duration_since(committed));
                    break;
                }
            }
        }
        let _ = stop.send(());
        relay.await.expect("no panic").expect("it ends well");
        took
    });
    setup.drop(&table);
    let mut took: Vec<_> = took.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    Latency {
        p50: took[EVENTS / 2],
        p99: took[EVENTS * 99 / 100],
        most: took[EVENTS - 1],
    }
}

type Stopped = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Publishes in a transaction of the application's own, without telling the relay in process; returns
/// when the commit was sent.
async fn publish(setup: &Setup, outbox: &Outbox<Postgres>, number: usize) -> Instant {
    let message = Message::builder("bench")
        .key(format!("key-{}", number % 100))
        .data(number.to_string())
        .build()
        .expect("a valid message");
    let mut transaction = setup.pool.begin().await.expect("begun");
    outbox
        .write_in(&mut transaction, &[message])
        .await
        .expect("written");
    let committed = Instant::now();
    transaction.commit().await.expect("committed");
    committed
}
