//! Connections: one that all share, and one of its own for each that waits for entries.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisFuture, RedisResult, Value,
};
use streams_core::Result;
use tokio::sync::Mutex;

use crate::error::{breaks, error};

/// How to get at the server or servers.
pub(crate) enum Client {
    Single(Box<redis::Client>),
    Cluster(Box<ClusterClient>),
    /// It keeps the sentinels it found; asking them takes turns.
    Sentinel(Box<Mutex<SentinelClient>>),
}

impl Client {
    /// A connection of its own, whose answers may take `timeout`.
    async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout.min(LONGEST_CONNECT)))
            .set_response_timeout(Some(timeout));
        Ok(match self {
            Self::Single(client) => Connection::One(
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?,
            ),
            Self::Sentinel(client) => Connection::One(
                client
                    .lock()
                    .await
                    .get_async_connection_with_config(&config)
                    .await?,
            ),
            Self::Cluster(client) => Connection::Cluster(
                client
                    .get_async_connection_with_config(
                        redis::cluster::ClusterConfig::new()
                            .set_connection_timeout(timeout.min(LONGEST_CONNECT))
                            .set_response_timeout(timeout),
                    )
                    .await?,
            ),
        })
    }
}

/// A server that does not take a connection for so long is not there.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);

impl fmt::Debug for Client {
    /// Addresses may come with passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single",
            Self::Cluster(_) => "Cluster",
            Self::Sentinel(_) => "Sentinel",
        })
    }
}

/// A connection to a server, or to those of a cluster.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// A connection that is opened when it is needed, and anew when it broke.
pub(crate) struct Link {
    client: Arc<Client>,
    timeout: Duration,
    current: Mutex<Option<(u64, Connection)>>,
    opened: AtomicU64,
}

impl Link {
    pub(crate) fn new(client: Arc<Client>, timeout: Duration) -> Self {
        Self {
            client,
            timeout,
            current: Mutex::new(None),
            opened: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(*self.client, Client::Cluster(_))
    }

    /// How often a connection was opened: another may be to another server, or one that has less.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A link of its own to the same place, for answers that take up to `longer` more.
    pub(crate) fn apart(&self, longer: Duration) -> Self {
        Self::new(self.client.clone(), self.timeout + longer)
    }

    /// Calls the server with what is sent by `call`. What fails is not tried again: it may have been
    /// done.
    pub(crate) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let (number, mut connection) = self.connection().await?;
        let result = call(&mut connection).await;
        if let Err(error) = &result
            && breaks(error)
        {
            let mut current = self.current.lock().await;
            if current.as_ref().is_some_and(|(now, _)| *now == number) {
                *current = None;
            }
        }
        result
    }

    /// The answer to one command.
    pub(crate) async fn command<T: FromRedisValue>(
        &self,
        command: &Cmd,
        doing: &'static str,
    ) -> Result<T> {
        self.call(async |connection| command.query_async(connection).await)
            .await
            .map_err(|e| error(e, doing))
    }

    async fn connection(&self) -> RedisResult<(u64, Connection)> {
        let mut current = self.current.lock().await;
        if let Some(current) = &*current {
            return Ok(current.clone());
        }
        let connection = self.client.connect(self.timeout).await?;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(current.insert((number, connection)).clone())
    }
}
