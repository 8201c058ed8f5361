//! Servers for the cases of the conformance kit under faults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Error, ErrorKind, Result, async_trait};
use streams_testkit::Network;

use crate::Proxy;

/// A server that the conformance kit may restart, and the proxy before it, where it may cut the network.
pub struct Faults {
    restart: Arc<dyn Fn() -> crate::Result + Send + Sync>,
    proxy: Proxy,
}

impl Faults {
    /// Takes what restarts the server, and a proxy that passes on to it. Clients should know the proxy
    /// alone.
    pub fn new(restart: impl Fn() -> crate::Result + Send + Sync + 'static, proxy: Proxy) -> Self {
        Self {
            restart: Arc::new(restart),
            proxy,
        }
    }
}

#[async_trait]
impl streams_testkit::Server for Faults {
    async fn restart(&self) -> Result<()> {
        let restart = self.restart.clone();
        tokio::task::spawn_blocking(move || restart())
            .await
            .map_err(failed)?
            .map_err(failed)
    }
}

#[async_trait]
impl Network for Faults {
    async fn cut(&self) -> Result<()> {
        Network::cut(&self.proxy).await
    }

    async fn mend(&self, latency: Duration) -> Result<()> {
        Network::mend(&self.proxy, latency).await
    }
}

#[async_trait]
impl Network for Proxy {
    async fn cut(&self) -> Result<()> {
        Proxy::cut(self);
        Ok(())
    }

    async fn mend(&self, latency: Duration) -> Result<()> {
        Proxy::mend(self, latency);
        Ok(())
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

fn failed(error: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Other, error.to_string())
}
