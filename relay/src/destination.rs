//! Where messages go, by URL.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "sns")]
use streams_amazon::Sns;
#[cfg(feature = "sqs")]
use streams_amazon::Sqs;
use streams_chanbuf::Chanbuf;
#[cfg(any(feature = "kafka", feature = "redis", feature = "sns", feature = "sqs"))]
use streams_core::OpenDriver;
use streams_core::{
    Capabilities, Driver as _, DriverRegistry, DriverUrl, Message, Result, WriteError, Writer,
    async_trait,
};
#[cfg(feature = "kafka")]
use streams_kafka::Kafka;
#[cfg(feature = "redis")]
use streams_redis::Redis;

use crate::config::{Config, of_setting};
use crate::stdout::StandardOutput;

/// The drivers that this program links.
fn drivers() -> DriverRegistry {
    let drivers = DriverRegistry::new()
        .with::<Chanbuf>()
        .with::<StandardOutput>();
    #[cfg(feature = "kafka")]
    let drivers = drivers.with::<Kafka>();
    #[cfg(feature = "redis")]
    let drivers = drivers.with::<Redis>();
    #[cfg(feature = "sns")]
    let drivers = drivers.with::<Sns>();
    #[cfg(feature = "sqs")]
    let drivers = drivers.with::<Sqs>();
    drivers
}

/// Connects to the destination and waits for its answer, where there is somebody to answer.
pub(crate) async fn check(url: &str) -> Result<()> {
    let url = DriverUrl::parse(url)?;
    match url.scheme() {
        #[cfg(feature = "kafka")]
        scheme if Kafka::SCHEMES.contains(&scheme) => Kafka::open(&url).await?.connect().await,
        #[cfg(feature = "redis")]
        scheme if Redis::SCHEMES.contains(&scheme) => Redis::open(&url).await?.connect().await,
        #[cfg(feature = "sns")]
        scheme if Sns::SCHEMES.contains(&scheme) => Sns::open(&url).await?.connect().await,
        #[cfg(feature = "sqs")]
        scheme if Sqs::SCHEMES.contains(&scheme) => Sqs::open(&url).await?.connect().await,
        _ => Ok(()),
    }
}

/// The destination's writer, which remembers whether it takes messages.
pub(crate) struct Destination {
    writer: Arc<dyn Writer>,
    refused: Mutex<Option<(Instant, String)>>,
    /// While it is down, the relay tries again within this time.
    tries_within: Duration,
}

impl Destination {
    /// That of a configuration. Nothing is asked of it yet.
    pub(crate) async fn open(config: &Config) -> Result<Arc<Self>> {
        let driver = drivers().open(&config.destination).await;
        let driver = driver.map_err(of_setting("destination.url"))?;
        let relay = &config.relay;
        Ok(Arc::new(Self {
            writer: driver.writer(),
            refused: Mutex::new(None),
            // A wait, which jitter may double, and a write.
            tries_within: relay
                .destination_backoff
                .1
                .saturating_mul(2)
                .saturating_add(relay.lease),
        }))
    }

    /// Why it took nothing of what was written to it last.
    pub(crate) fn down(&self) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        // An older refusal was not of the destination: what it was of is tried no more.
        let refused = refused.as_ref();
        let (_, why) = refused.filter(|(when, _)| when.elapsed() < self.tries_within)?;
        Some(why.clone())
    }

    fn remember(&self, refused: Option<String>) {
        let refused = refused.map(|why| (Instant::now(), why));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// As the relay sees it: it is down when all of a write failed, and may go well later.
    fn saw(&self, batch: &[Message], written: &Result<(), WriteError>) {
        let refused = written.as_ref().err().filter(|error| {
            let failures = error.failures();
            failures.len() == batch.len() && error.is_retryable()
        });
        self.remember(refused.map(ToString::to_string));
    }
}

#[async_trait]
impl Writer for Destination {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let mut unanswered = Unanswered(Some(self));
        let written = self.writer.write(batch).await;
        unanswered.0 = None;
        self.saw(batch, &written);
        written
    }

    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        let written = self.writer.try_write(batch)?;
        self.saw(batch, &written);
        Some(written)
    }

    async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.writer.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.writer.capabilities()
    }
}

/// A write, until it is answered. Dropped before, the relay has waited for long enough.
struct Unanswered<'a>(Option<&'a Destination>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(destination) = self.0 {
            destination.remember(Some(
                "it did not confirm the last messages in time".to_owned(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use streams_core::{Error, ErrorKind, NoopWriter};

    const LONG: Duration = Duration::from_secs(3600);

    fn failing(kind: ErrorKind, tries_within: Duration) -> Destination {
        Destination {
            writer: Arc::new(NoopWriter::failing(move || Error::new(kind, "no luck"))),
            refused: Mutex::new(None),
            tries_within,
        }
    }

    fn batch() -> [Message; 1] {
        [Message::builder("a").data("x").build().unwrap()]
    }

    #[tokio::test]
    async fn it_is_down_while_it_takes_nothing_of_what_may_go_well_later() {
        let mut destination = failing(ErrorKind::Unavailable, LONG);
        assert_eq!(destination.down(), None);
        destination.write(&batch()).await.unwrap_err();
        assert!(destination.down().unwrap().contains("no luck"));
        destination.writer = Arc::new(NoopWriter::new());
        destination.write(&batch()).await.unwrap();
        assert_eq!(destination.down(), None);
    }

    #[tokio::test]
    async fn a_message_at_fault_says_nothing_of_the_destination() {
        let destination = failing(ErrorKind::TooLarge, LONG);
        destination.write(&batch()).await.unwrap_err();
        assert_eq!(destination.down(), None);
        // One that was given up says nothing for ever.
        let destination = failing(ErrorKind::Unavailable, Duration::ZERO);
        destination.write(&batch()).await.unwrap_err();
        assert_eq!(destination.down(), None);
    }

    #[test]
    fn a_write_that_nobody_waits_for_any_more_was_not_confirmed() {
        let destination = failing(ErrorKind::Unavailable, LONG);
        drop(Unanswered(Some(&destination)));
        assert!(destination.down().unwrap().contains("in time"));
    }
}
