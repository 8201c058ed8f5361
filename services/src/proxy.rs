//! A network that can be cut.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Error, Result};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Chunks that are under way in one direction of one connection.
const UNDER_WAY: usize = 64;

/// With a limited speed, so many writes a second.
const WRITES_A_SECOND: u64 = 20;

/// Passes TCP connections on to one server, until it is told to cut, delay, slow down or reset them.
/// It ends, with all its connections, when it is dropped.
///
/// ```
/// use std::time::Duration;
///
/// use streams_services::{Kafka, Proxy};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> streams_services::Result {
/// # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
/// let proxy = Proxy::start(server).await?;
/// let clients_connect_to = proxy.address();
/// proxy.cut(); // nothing gets through, and nobody is told
/// proxy.mend(Duration::from_millis(50)); // it does again, 50 ms later
/// proxy.limit(10_000); // and slowly
/// proxy.reset(); // every connection breaks
/// # Ok(())
/// # }
/// ```
///
/// Kafka's clients leave the address they were given and connect to the one the broker tells them, so
/// a broker must know of its proxy: see [`Kafka::proxy`](crate::Kafka::proxy).
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    resets: watch::Sender<()>,
    listener: JoinHandle<()>,
}

/// The state of the network. Every connection watches it.
#[derive(Debug, Clone, Copy, Default)]
struct Network {
    cut: bool,
    latency: Duration,
    bytes_per_second: Option<u64>,
}

impl Proxy {
    /// A proxy before `target`, on a free port of loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    /// A proxy before `target` that listens on `address`.
    ///
    /// # Errors
    /// When it cannot listen there.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn start_on(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let error = |error| Error::new(format!("a proxy on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        let (network, watched) = watch::channel(Network::default());
        let (resets, watched_resets) = watch::channel(());
        let listener = tokio::spawn(async move {
            loop {
                // It fails when there are too many open files: once some are closed it goes on.
                let Ok((client, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (watched, mut resets) = (watched.clone(), watched_resets.clone());
                resets.mark_unchanged(); // those before it do not concern it
                tokio::spawn(connection(client, target, watched, resets));
            }
        });
        Ok(Self {
            address,
            network,
            resets,
            listener,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through in either direction, and nothing is refused: connections hang, new ones are
    /// accepted and silent. What was sent meanwhile arrives after [`mend`](Self::mend).
    pub fn cut(&self) {
        self.network.send_modify(|network| network.cut = true);
    }

    /// Everything gets through at full speed, so much later in each direction.
    pub fn mend(&self, latency: Duration) {
        self.network.send_replace(Network {
            latency,
            ..Network::default()
        });
    }

    /// Every connection gets so many bytes through in a second, in each direction; at least 1.
    pub fn limit(&self, bytes_per_second: u64) {
        let bytes_per_second = Some(bytes_per_second.max(1));
        self.network
            .send_modify(|network| network.bytes_per_second = bytes_per_second);
    }

    /// Every connection breaks at both ends at once (RST), also while the network is cut. New ones are
    /// possible.
    pub fn reset(&self) {
        self.resets.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections notice that nobody can reset them any more.
        self.listener.abort();
    }
}

async fn connection(
    mut client: TcpStream,
    target: SocketAddr,
    mut network: watch::Receiver<Network>,
    mut resets: watch::Receiver<()>,
) {
    let mut server = None;
    let pass = async {
        until_mended(&mut network).await;
        let server = server.insert(TcpStream::connect(target).await?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            pass(from_client, to_server, network.clone()),
            pass(from_server, to_client, network.clone()),
        )
    };
    let ended_well = tokio::select! {
        result = pass => result.is_ok(),
        _ = resets.changed() => false,
    };
    if !ended_well {
        for stream in [Some(client), server].into_iter().flatten() {
            let _ = stream.set_zero_linger();
        }
    }
}

/// One direction, to its end.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut network: watch::Receiver<Network>,
) -> io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let latency = network.clone();
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let end = from.read_buf(&mut chunk).await? == 0;
            let due = Instant::now() + latency.borrow().latency;
            // An empty chunk is the end, which is delayed like the rest.
            if sender.send((due, chunk)).await.is_err() || end {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                until_mended(&mut network).await;
                let bytes_per_second = network.borrow().bytes_per_second;
                let now = portion(rest.len(), bytes_per_second);
                to.write_all(&rest[..now]).await?;
                rest = &rest[now..];
                if let Some(rate) = bytes_per_second {
                    sleep(Duration::from_secs_f64(now as f64 / rate as f64)).await;
                }
            }
        }
        until_mended(&mut network).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// How many of so many bytes to write at once.
fn portion(bytes: usize, bytes_per_second: Option<u64>) -> usize {
    let most = bytes_per_second.map_or(usize::MAX, |rate| {
        usize::try_from(rate.div_ceil(WRITES_A_SECOND)).unwrap_or(usize::MAX)
    });
    bytes.min(most)
}

async fn until_mended(network: &mut watch::Receiver<Network>) {
    if network.wait_for(|network| !network.cut).await.is_err() {
        // The proxy is gone; the connection is about to be closed.
        pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
