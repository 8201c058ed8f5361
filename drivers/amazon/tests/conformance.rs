//! The conformance kit on queues of ElasticMQ, standard and FIFO.

mod common;

use std::time::Duration;

use common::{client, on_thread};
use streams_amazon::{NewQueues, SqsBuilder};
use streams_core::{AnyDriver, Error, ErrorKind, Result, StreamName, async_trait};
use streams_services::{Proxy, Service};
use streams_testkit::{
    ForeignProducer, Harness, Network, Profile, ReaderProcess, RunOptions, this_test,
};

/// Tells a process the kit starts where the server is, and what kind of queue it reads.
const ENDPOINT: &str = "STREAMS_SQS_CONFORMANCE_ENDPOINT";
const FIFO: &str = "STREAMS_SQS_CONFORMANCE_FIFO";

/// ElasticMQ and the kit share what processors there are: a busy machine is slow, and hangs not.
const HANGS: Duration = Duration::from_secs(180);

struct Queues {
    name: &'static str,
    endpoint: String,
    fifo: bool,
    proxy: Option<Proxy>,
}

impl Queues {
    async fn on(service: Service, name: &'static str, fifo: bool) -> Self {
        let endpoint = on_thread(move || service.address().unwrap()).await;
        Self {
            name,
            endpoint,
            fifo,
            proxy: None,
        }
    }

    fn driver(&self) -> SqsBuilder {
        let driver = common::driver(&self.endpoint).fifo(self.fifo);
        // The kit waits for the end of leases; they outlast what a busy server makes others wait.
        let driver = driver.visibility_timeout(Duration::from_secs(6));
        if self.fifo {
            // ElasticMQ burns all processors while a request waits for messages whose groups are all
            // in flight: fewer requests wait.
            driver.receive_concurrency(1)
        } else {
            driver
        }
    }
}

#[async_trait]
impl Harness for Queues {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.driver().build().await?))
    }

    fn name(&self) -> Option<String> {
        Some(self.name.to_owned())
    }

    async fn create(&self, stream: &StreamName) -> Result<()> {
        let settings = NewQueues::new().without_dead_letters();
        let driver = self.driver().build().await?;
        driver.create_queue(stream, &settings).await.map(drop)
    }

    async fn remove(&self, stream: &StreamName) -> Result<()> {
        let driver = self.driver().build().await?;
        driver.delete_queue(stream).await.map(drop)
    }

    fn profile(&self) -> Profile {
        Profile::default()
            // A third of 10,000 messages through a proxy take longer than those of other cases.
            .patience(Duration::from_secs(if self.proxy.is_some() {
                60
            } else {
                20
            }))
            // Times are in whole seconds.
            .tick(Duration::from_secs(1))
    }

    fn refused_stream(&self) -> Option<StreamName> {
        StreamName::new("no/queue").ok()
    }

    fn network(&self) -> Option<&dyn Network> {
        self.proxy.as_ref().map(|proxy| proxy as &dyn Network)
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        let process = this_test("reader_process").env(ENDPOINT, &self.endpoint);
        Some(process.env(FIFO, self.fifo.to_string()))
    }
}

#[async_trait]
impl ForeignProducer for Queues {
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        let client = client(&self.endpoint);
        let mut queue = stream.as_str().replace('.', "-");
        if self.fifo {
            queue.push_str(".fifo");
        }
        let url = client.get_queue_url().queue_name(queue).send().await;
        let url = url.map_err(failed)?.queue_url.unwrap_or_default();
        let body = String::from_utf8(data.to_vec()).map_err(failed)?;
        let mut request = client.send_message().queue_url(url).message_body(body);
        if self.fifo {
            request = request.message_group_id("theirs");
            request = request.message_deduplication_id(fastrand::u64(..).to_string());
        }
        request.send().await.map(drop).map_err(failed)
    }
}

fn failed(error: impl std::error::Error) -> Error {
    Error::new(ErrorKind::Other, format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_queues() {
    let harness = Queues::on(Service::ElasticMq, "sqs", false).await;
    let options = RunOptions::from_env().parallel(4).timeout(HANGS);
    let report = streams_testkit::run_with(harness, options).await;
    report.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifo_queues() {
    let harness = Queues::on(Service::ElasticMq, "sqs (fifo)", true).await;
    let mut options = RunOptions::from_env().parallel(1).timeout(HANGS);
    if std::env::var("STREAMS_KIT_CASE").is_err() {
        // It writes a message once more under its id, which a FIFO queue drops for five minutes.
        let same_id = "layers_wrap_batches";
        let names = streams_testkit::cases().iter().map(|case| case.name);
        options = options.only(names.filter(|name| *name != same_id));
    }
    let report = streams_testkit::run_with(harness, options).await;
    report.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_faults() {
    let mut harness = Queues::on(Service::ElasticMq, "sqs (faults)", false).await;
    let server = harness.endpoint.trim_start_matches("http://").parse();
    let proxy = Proxy::start(server.unwrap()).await.unwrap();
    harness.endpoint = format!("http://{}", proxy.address());
    harness.proxy = Some(proxy);
    let options = RunOptions::from_env().only(["network_cut"]);
    let report = streams_testkit::run_with(harness, options).await;
    report.assert_passed();
}

/// Does nothing unless the kit has started it as a process of its own.
#[test]
fn reader_process() {
    if let (Ok(endpoint), Ok(fifo)) = (std::env::var(ENDPOINT), std::env::var(FIFO)) {
        ReaderProcess::serve(&Queues {
            name: "sqs",
            endpoint,
            fifo: fifo == "true",
            proxy: None,
        });
    }
}
