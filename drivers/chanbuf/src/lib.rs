#![doc = include_str!("../README.md")]

mod config;
mod delayed;
mod group;
mod reader;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use config::Config;
pub use config::{ChanbufBuilder, ChanbufOptions, Full, Unheld};
use reader::ChanbufReader;
use stream::Stream;
use streams_core::{
    Capabilities, Driver, DriverUrl, IntoStreamName, Message, OpenDriver, Reader, Result,
    StartFrom, StreamName, Writer,
};
use writer::ChanbufWriter;

/// The in-memory driver: a broker of its own, held by its handles. Cheap to clone; clones are one
/// broker.
#[derive(Clone)]
pub struct Chanbuf {
    broker: Arc<Broker>,
}

pub(crate) struct Broker {
    pub(crate) config: Arc<Config>,
    pub(crate) capabilities: Capabilities,
    streams: RwLock<HashMap<StreamName, Arc<Stream>, foldhash::fast::RandomState>>,
}

impl Broker {
    /// The stream of that name, made if it is not there yet.
    pub(crate) fn stream(&self, name: &StreamName) -> Arc<Stream> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(name) {
            return stream.clone();
        }
        drop(streams);
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Stream::new(name.clone(), self.config.clone()));
        streams.entry(name.clone()).or_insert_with(make).clone()
    }

    fn existing(&self, name: &StreamName) -> Option<Arc<Stream>> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned()
    }
}

impl Chanbuf {
    /// A broker with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    /// Starts a broker with settings of your own.
    pub fn builder() -> ChanbufBuilder {
        ChanbufBuilder::default()
    }

    fn with(config: Config) -> Self {
        Self {
            broker: Arc::new(Broker {
                capabilities: config.capabilities(),
                config: Arc::new(config),
                streams: RwLock::default(),
            }),
        }
    }

    /// Makes a group before anybody reads as part of it, so that what is published from now on
    /// waits for its members. A group that exists keeps its position.
    ///
    /// # Errors
    /// - [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad stream name.
    /// - [`NotFound`](streams_core::ErrorKind::NotFound) for a position that is no longer kept.
    pub fn create_group(
        &self,
        stream: impl IntoStreamName,
        group: &str,
        start: &StartFrom,
    ) -> Result<()> {
        let stream = self.broker.stream(&stream.into_stream_name()?);
        stream
            .lock()
            .open_group(Some(group), start, &stream.config)
            .map(|_| ())
    }

    /// Removes a group and what waits for it; its members get nothing more. `false` says that there
    /// was none.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad stream name.
    pub fn delete_group(&self, stream: impl IntoStreamName, group: &str) -> Result<bool> {
        let Some(stream) = self.broker.existing(&stream.into_stream_name()?) else {
            return Ok(false);
        };
        Ok(stream.delete_group(group))
    }

    /// Messages that were written to a stream, oldest first, as far as
    /// [`record`](ChanbufBuilder::record) keeps them. For tests.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad stream name.
    pub fn recorded(&self, stream: impl IntoStreamName) -> Result<Vec<Message>> {
        let stream = self.broker.existing(&stream.into_stream_name()?);
        Ok(stream
            .map(|stream| stream.lock().recorded())
            .unwrap_or_default())
    }

    /// What the broker holds right now for groups that have members.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let streams = self
            .broker
            .streams
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = streams.values().cloned().collect();
        drop(streams);
        let mut backlog = Backlog::default();
        for stream in all {
            stream.lock().add_backlog(&stream.config, &mut backlog);
        }
        backlog
    }
}

/// Counts over all streams and groups that have members; see [`Chanbuf::backlog`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Can be delivered now.
    pub ready: usize,
    /// Delivered and not settled.
    pub unsettled: usize,
    /// Waits for a retry delay, or for another message of its key to be settled.
    pub waiting: usize,
    /// Scheduled for later.
    pub delayed: usize,
}

impl Default for Chanbuf {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver for Chanbuf {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(ChanbufReader::new(self.broker.clone()))
    }

    /// Each writer is closed on its own; the broker stays.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(ChanbufWriter::new(self.broker.clone()))
    }
}

impl OpenDriver for Chanbuf {
    const SCHEMES: &'static [&'static str] = &["chanbuf"];
    const PARAMETERS: &'static [&'static str] = config::PARAMETERS;

    async fn open(url: &DriverUrl) -> Result<Self> {
        ChanbufBuilder::from_url(url)?.build()
    }
}

impl fmt::Debug for Chanbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chanbuf")
            .field("config", &self.broker.config)
            .finish_non_exhaustive()
    }
}
