//! Streams of Redis, read as a member of a consumer group.
//!
//! The core's runner does the work: it reads, keeps leases up, tries again, sets aside, acknowledges and
//! stops. Here is its handler, which writes to the destination.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::counter;
use streams_core::{
    AnyDriver, Backoff, Batch, Bus, Capabilities, Driver as _, DriverUrl, Error, FailurePolicy,
    Message, OpenDriver as _, Result, StreamName, WriteError, Writer, async_trait,
};
use streams_redis::Redis;
use streams_sql::metrics::SET_ASIDE;
use tokio::sync::watch;

use super::forward::Forward;
use super::{Report, Source, backoff, stop};
use crate::config::{Config, of_setting};

/// How many times as much is held as is written together.
const HELD: usize = 4;

/// Longer than any outage. Waits of the runner that only the program's stop ends.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

struct Streams {
    redis: Redis,
    streams: Vec<StreamName>,
    group: String,
    destination: Arc<dyn Writer>,
    rows: NonZeroUsize,
    bytes: usize,
    lease: Duration,
    failure: FailurePolicy,
    destination_backoff: Backoff,
}

/// The source of a configuration. Nothing is asked of Redis yet.
pub(crate) fn open(config: &Config, destination: Arc<dyn Writer>) -> Result<Arc<dyn Source>> {
    let (source, relay) = (&config.source, &config.relay);
    let url = DriverUrl::parse(&source.url).map_err(of_setting("source.url"))?;
    if url.parameter("lease_ms").is_some() {
        let problem = "`source.url` has the parameter `lease_ms`; set `relay.lease` instead";
        return Err(Error::invalid_config(problem));
    }
    let circle = DriverUrl::parse(&config.destination).is_ok_and(|to| is_same_place(&url, &to));
    if circle {
        return Err(Error::invalid_config(
            "`source.url` and `destination.url` are the same place, where every message would come \
             again; name another, or give the destination a `prefix` of its own",
        ));
    }
    let redis = Redis::builder(&source.url).lease(relay.lease).build();
    Ok(Arc::new(Streams {
        redis: redis.map_err(of_setting("source.url` or `relay.lease"))?,
        streams: source.redis.streams.clone(),
        group: source.redis.group.clone(),
        destination,
        rows: NonZeroUsize::new(relay.rows as usize).unwrap_or(NonZeroUsize::MIN),
        bytes: relay.bytes,
        lease: relay.lease,
        failure: FailurePolicy::default()
            .backoff(backoff(relay.row_backoff))
            .max_attempts(Some(relay.attempts)),
        destination_backoff: backoff(relay.destination_backoff),
    }))
}

/// Whether both are the same streams, as far as two URLs tell.
fn is_same_place(one: &DriverUrl, other: &DriverUrl) -> bool {
    let database = |url: &DriverUrl| match url.path().trim_matches('/') {
        "0" => String::new(),
        path => path.to_owned(),
    };
    Redis::SCHEMES.contains(&other.scheme())
        && one.hosts().iter().any(|host| other.hosts().contains(host))
        && database(one) == database(other)
        && one.parameter("prefix") == other.parameter("prefix")
}

impl Streams {
    /// A bus with a subscription for each stream, so that one that cannot be written does not hold up
    /// the others.
    fn bus(&self, failures: &Arc<AtomicU64>) -> Result<Bus> {
        let dead_letters = DeadLetters(self.redis.writer());
        let driver = AnyDriver::new(self.redis.reader(), Arc::new(dead_letters));
        let bus = Bus::builder(driver).start_timeout(FOR_EVER).build()?;
        for stream in &self.streams {
            let forward = Arc::new(Forward::new(
                stream,
                self.destination.clone(),
                self.bytes,
                self.lease / 2,
                self.destination_backoff,
                failures.clone(),
            ));
            // It is there, for alerts, before the first.
            counter!(SET_ASIDE, "stream" => stream.to_string()).increment(0);
            let handler = move |batch: Batch| {
                let forward = forward.clone();
                async move { forward.batch(&batch).await }
            };
            bus.subscribe_batch(stream, self.rows.get(), handler)
                .group(&self.group)
                // One write at a time: messages without a key are in order too.
                .concurrency(1)
                .max_in_flight(HELD * self.rows.get())
                .max_in_flight_bytes(HELD.saturating_mul(self.bytes))
                .on_failure(self.failure.clone())
                // Redis would count what it puts off as an attempt.
                .longest_wait(FOR_EVER)
                .longest_lease(FOR_EVER)
                .register()?;
        }
        Ok(bus)
    }
}

#[async_trait]
impl Source for Streams {
    /// Makes the streams, and gives groups that exist the lease of the settings.
    async fn migrate(&self) -> Result<()> {
        for stream in &self.streams {
            self.redis.create_stream(stream).await?;
            self.redis
                .set_lease(stream, &self.group, self.lease)
                .await?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        self.redis.connect().await
    }

    async fn relay(&self, stopped: watch::Receiver<bool>) -> Result<Report> {
        let failures = Arc::default();
        let bus = self.bus(&failures)?;
        let working = async {
            bus.start().await?;
            Err::<(), _>(bus.failed().await)
        };
        let ended = tokio::select! {
            ended = working => ended,
            () = stop(stopped) => Ok(()),
        };
        // The program has a deadline of its own.
        let done = bus.shutdown(FOR_EVER).await;
        ended?;
        let set_aside = done.subscriptions.iter().map(|one| one.dead_lettered).sum();
        Ok(Report {
            messages: done.acknowledged(),
            rows: done.acknowledged(),
            failures: failures.load(Ordering::Relaxed),
            set_aside,
        })
    }
}

/// The writer of dead letters, which counts them.
struct DeadLetters(Arc<dyn Writer>);

#[async_trait]
impl Writer for DeadLetters {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.0.write(batch).await?;
        for message in batch {
            let name = message.stream().as_str();
            let stream = name.strip_suffix(streams_core::DEAD_LETTER_SUFFIX);
            counter!(SET_ASIDE, "stream" => stream.unwrap_or(name).to_owned()).increment(1);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_seen_where_the_urls_tell() {
        let same = |one: &str, other: &str| {
            let url = |text| DriverUrl::parse(text).unwrap();
            is_same_place(&url(one), &url(other))
        };
        assert!(same("redis://u:p@a:1", "rediss://v:q@a:1/0?max_len=9"));
        assert!(same("redis+cluster://a:1,b:1", "redis+cluster://b:1"));
        assert!(!same("redis://a:1", "redis://b:1"));
        assert!(!same("redis://a:1/1", "redis://a:1/2"));
        assert!(!same("redis://a:1", "redis://a:1?prefix=other:"));
        assert!(!same("redis://a:1", "kafka://a:1"));
    }
}
