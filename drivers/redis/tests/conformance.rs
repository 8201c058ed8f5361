//! The conformance kit on a real server: on the one all tests share, and the cases that restart it or
//! cut the network on one of their own.

use std::time::Duration;

use streams_core::{AnyDriver, Delivery, Error, ErrorKind, Result, StreamName, async_trait};
use streams_redis::{ENTRY_ID, Redis, RedisBuilder};
use streams_services::{Faults, Proxy, Service};
use streams_testkit::{
    ForeignProducer, Harness, Network, ReaderProcess, RunOptions, Server, this_test,
};

/// Tells a process the kit starts where the server is.
const URL: &str = "STREAMS_REDIS_CONFORMANCE_URL";

struct OnServer {
    url: String,
    faults: Option<Faults>,
}

impl OnServer {
    fn at(url: String) -> Self {
        Self { url, faults: None }
    }

    /// One of its own, behind a proxy.
    async fn own() -> Self {
        let server =
            tokio::task::spawn_blocking(|| streams_services::Redis::new().start().unwrap());
        let server = server.await.unwrap();
        let proxy = Proxy::start(server.address()).await.unwrap();
        Self {
            url: format!("redis://{}", proxy.address()),
            faults: Some(Faults::new(move || server.restart(), proxy)),
        }
    }

    fn driver(&self) -> RedisBuilder {
        Redis::builder(&self.url).lease(Duration::from_secs(3))
    }
}

#[async_trait]
impl Harness for OnServer {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.driver().build()?))
    }

    fn name(&self) -> Option<String> {
        self.faults.as_ref().map(|_| "redis (faults)".to_owned())
    }

    async fn remove(&self, stream: &StreamName) -> Result<()> {
        self.driver().build()?.delete_stream(stream).await.map(drop)
    }

    fn position(&self, delivery: &Delivery) -> String {
        let facts = delivery.metadata.as_ref().unwrap();
        facts.get(ENTRY_ID, delivery.token.id()).unwrap()
    }

    fn server(&self) -> Option<&dyn Server> {
        self.faults.as_ref().map(|faults| faults as &dyn Server)
    }

    fn network(&self) -> Option<&dyn Network> {
        self.faults.as_ref().map(|faults| faults as &dyn Network)
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        Some(this_test("reader_process").env(URL, &self.url))
    }
}

#[async_trait]
impl ForeignProducer for OnServer {
    /// As the Go library `pulse` does.
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        let client = redis::Client::open(&*self.url).map_err(failed)?;
        let connection = client.get_multiplexed_async_connection().await;
        redis::cmd("XADD")
            .arg(format!("pulse:stream:{stream}"))
            .arg(&["MAXLEN", "~", "1000", "*", "n", "event", "p"])
            .arg(data)
            .exec_async(&mut connection.map_err(failed)?)
            .await
            .map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Other, error.to_string())
}

async fn shared() -> String {
    let address = tokio::task::spawn_blocking(|| Service::Redis.address().unwrap());
    address.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_server() {
    let harness = OnServer::at(shared().await);
    streams_testkit::run(harness).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_faults() {
    let options = RunOptions::from_env().only(["reconnect", "network_cut"]);
    let report = streams_testkit::run_with(OnServer::own().await, options).await;
    report.assert_passed();
}

/// Does nothing unless the kit has started it as a process of its own.
#[test]
fn reader_process() {
    if let Ok(url) = std::env::var(URL) {
        ReaderProcess::serve(&OnServer::at(url));
    }
}
