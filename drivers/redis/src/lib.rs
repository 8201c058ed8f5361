#![doc = include_str!("../README.md")]

mod admin;
mod client;
mod config;
mod cursor;
mod dedup;
mod entry;
mod error;
mod feed;
mod group;
mod keys;
mod message;
pub mod metrics;
mod options;
mod pulse;
mod reader;
mod reply;
mod scheduled;
mod scripts;
mod start;
mod subscription;
mod trim;
mod url;
mod writer;

use std::fmt;
use std::sync::Arc;

pub use config::{RedisBuilder, TimeToLive};
pub use dedup::RedisDeduplication;
pub use entry::EntryId;
pub use message::{EVENT_NAME, TOPIC};
pub use options::{RedisOptions, StreamSet};
use streams_core::{Driver, DriverUrl, OpenDriver, Reader, Result, StreamName, Writer};

use crate::client::{Client, Link};
use crate::config::Config;
use crate::keys::Keys;
use crate::reader::RedisReader;
use crate::scheduled::Movers;
use crate::trim::Added;
use crate::writer::RedisWriter;

/// The driver's name in errors and capabilities.
pub(crate) const DRIVER: &str = "redis";

/// The name of the fact of a delivery that is the id of its entry: see
/// [`Metadata`](streams_core::Metadata).
pub const ENTRY_ID: &str = "streams-redis-entry-id";

/// The Redis driver. Cheap to clone; clones share a connection.
///
/// ```no_run
/// use streams_core::Bus;
/// use streams_redis::Redis;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> streams_core::Result<()> {
/// let redis = Redis::builder("redis://localhost:6379").build()?;
/// let bus = Bus::builder(redis).build()?;
/// bus.subscribe_stream("user.created", |message, _context| async move {
///     println!("{} bytes", message.data().len());
/// })
/// .group("mailer")
/// .register()?;
/// bus.start().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

/// What readers and writers share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) link: Arc<Link>,
    pub(crate) movers: Movers,
    pub(crate) added: Added,
}

impl Inner {
    pub(crate) fn keys(&self, stream: &StreamName) -> Keys {
        Keys::new(&self.config.prefix, stream)
    }
}

impl Redis {
    /// Starts a driver for the server or servers at a URL.
    ///
    /// | URL | what |
    /// | --- | --- |
    /// | `redis://user:password@host:6379/0` | one server; the path is the number of its database |
    /// | `rediss://host:6379?ca_file=ca.pem` | the same with TLS |
    /// | `redis+cluster://host-1:6379,host-2:6379` | a cluster, by some of its nodes |
    /// | `redis+sentinel://host-1:26379,host-2:26379/mymaster/0` | the master the sentinels name |
    ///
    /// `rediss+cluster` and `rediss+sentinel` use TLS. The parameters are the settings of the builder,
    /// times in milliseconds: `lease_ms`, `max_len`, and so on.
    pub fn builder(url: impl AsRef<str>) -> RedisBuilder {
        RedisBuilder::new(url.as_ref())
    }

    pub(crate) fn with(client: Client, config: Config) -> Self {
        let link = Arc::new(Link::new(Arc::new(client), config.timeout));
        Self {
            inner: Arc::new_cyclic(|inner| Inner {
                config,
                link,
                movers: Movers::new(inner.clone()),
                added: Added::default(),
            }),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

impl Driver for Redis {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(RedisReader::new(self.inner.clone()))
    }

    /// Each writer is closed on its own; the connection stays.
    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(RedisWriter::new(self.inner.clone()))
    }
}

impl OpenDriver for Redis {
    const SCHEMES: &'static [&'static str] = url::SCHEMES;
    const PARAMETERS: &'static [&'static str] = url::PARAMETERS;

    async fn open(url: &DriverUrl) -> Result<Self> {
        RedisBuilder::from_url(url)?.build()
    }
}
