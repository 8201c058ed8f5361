#![doc = include_str!("../README.md")]

mod config;
mod delayed;
mod group;
mod log;
mod members;
mod pending;
mod reader;
mod refused;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use config::Config;
pub use config::{ChanbufBuilder, ChanbufOptions, Full, Unheld};
use reader::ChanbufReader;
use stream::Stream;
use streams_core::{
    Capabilities, Driver, DriverUrl, IntoStreamName, Message, OpenDriver, ReadOptions, Reader,
    Result, StartFrom, StreamName, Writer,
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
    streams: RwLock<Streams>,
}

#[derive(Default)]
struct Streams {
    by_name: HashMap<StreamName, Arc<Stream>, foldhash::fast::RandomState>,
    /// With so many of them it is time to look for unused ones.
    sweep_at: usize,
    /// Where new streams begin: past every forgotten one, so that no offset comes twice.
    first_offset: u64,
}

impl Streams {
    fn sweep(&mut self) {
        let first_offset = &mut self.first_offset;
        self.by_name.retain(|_, stream| {
            let used = Arc::strong_count(stream) > 1 || !stream.is_unused();
            if !used {
                *first_offset = stream.lock().end().max(*first_offset);
            }
            used
        });
        self.sweep_at = (2 * self.by_name.len()).max(64);
    }
}

impl Broker {
    /// The stream of that name, made if it is not there yet.
    pub(crate) fn stream(&self, name: &StreamName) -> Arc<Stream> {
        if let Some(stream) = self.existing(name) {
            return stream;
        }
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        if streams.by_name.len() >= streams.sweep_at {
            // Those that two forgot to forget at the same time.
            streams.sweep();
        }
        let first = streams.first_offset;
        let make = || Arc::new(Stream::new(name.clone(), self.config.clone(), first));
        let entry = streams.by_name.entry(name.clone());
        entry.or_insert_with(make).clone()
    }

    pub(crate) fn existing(&self, name: &StreamName) -> Option<Arc<Stream>> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.by_name.get(name).cloned()
    }

    /// Forgets a stream that nobody has any use for, so that names used once do not gather. Nobody
    /// can begin to use it meanwhile: that takes another handle, which only the map gives out.
    pub(crate) fn forget_unused(&self, stream: &Arc<Stream>) {
        if !stream.is_unused() {
            return;
        }
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        // The map's handle and the caller's.
        if Arc::strong_count(stream) == 2 && stream.is_unused() {
            streams.by_name.remove(&stream.name);
            streams.first_offset = stream.lock().end().max(streams.first_offset);
        }
    }

    fn all(&self) -> Vec<Arc<Stream>> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.by_name.values().cloned().collect()
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
    /// - [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad name of the stream or
    ///   the group.
    /// - [`NotFound`](streams_core::ErrorKind::NotFound) for a position that is no longer kept.
    pub fn create_group(
        &self,
        stream: impl IntoStreamName,
        group: &str,
        start: &StartFrom,
    ) -> Result<()> {
        let options = ReadOptions::new(stream)?.group(group)?;
        let stream = self.broker.stream(&options.stream);
        let made = stream
            .lock()
            .open_group(Some(group), start, &stream.config)
            .map_err(|error| error.operation("create_group").with("stream", &stream.name));
        self.broker.forget_unused(&stream);
        made.map(|_| ())
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
        let deleted = stream.delete_group(group);
        self.broker.forget_unused(&stream);
        Ok(deleted)
    }

    /// Messages that were written to a stream, oldest first, as far as
    /// [`record`](ChanbufBuilder::record) keeps them. For tests.
    ///
    /// # Errors
    /// [`InvalidMessage`](streams_core::ErrorKind::InvalidMessage) for a bad stream name.
    pub fn recorded(&self, stream: impl IntoStreamName) -> Result<Vec<Message>> {
        let stream = self.broker.existing(&stream.into_stream_name()?);
        Ok(stream
            .map(|stream| stream.lock().recorded(&stream.config))
            .unwrap_or_default())
    }

    /// What the broker holds right now for groups that have members.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let mut backlog = Backlog::default();
        for stream in self.broker.all() {
            stream.lock().add_backlog(&stream.config, &mut backlog);
        }
        backlog
    }

    /// When the next scheduled message is due, over all streams.
    #[cfg(feature = "testing")]
    pub(crate) fn next_due(&self) -> Option<std::time::SystemTime> {
        let streams = self.broker.all();
        let due = |stream: &Arc<Stream>| stream.lock().next_due(&stream.config);
        streams.iter().filter_map(due).min()
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
            .field("streams", &self.broker.all().len())
            .field("config", &self.broker.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_nobody_forgot_are_swept() {
        let chanbuf = Chanbuf::new();
        let kept = chanbuf.broker.stream(&StreamName::new("kept").unwrap());
        chanbuf
            .create_group("held", "g", &StartFrom::Latest)
            .unwrap();
        for n in 0..10_000 {
            let name = StreamName::new(format!("s{n}")).unwrap();
            let _ = chanbuf.broker.stream(&name);
        }
        let count = chanbuf.broker.all().len();
        assert!(count < 200, "{count} streams");
        let same = chanbuf.broker.existing(&kept.name).unwrap();
        assert!(Arc::ptr_eq(&same, &kept), "somebody is using it");
        assert!(chanbuf.delete_group("held", "g").unwrap());
    }
}
