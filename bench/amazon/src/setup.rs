//! A server, clients that count, queues and messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_sqs::config::{
    BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RuntimeComponents,
};
use aws_sdk_sqs::error::BoxError;
use streams_amazon::{NewQueues, Sqs};
use streams_bench::SIZE;
use streams_core::{Bus, Message, StreamName, ksuid};
use streams_services::Service;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

pub(crate) struct Setup {
    pub(crate) runtime: Runtime,
    /// The client of the driver, which the raw loops use too.
    pub(crate) client: Client,
    pub(crate) sqs: Sqs,
    pub(crate) requests: Requests,
}

/// Counts requests, each time one is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Setup {
    pub(crate) fn new() -> Self {
        let endpoint = Service::ElasticMq.address().expect("a server");
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let requests = Requests::default();
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("elasticmq"))
            .endpoint_url(endpoint)
            .credentials_provider(Credentials::new("any", "any", None, None, "bench"))
            .interceptor(requests.clone());
        let client = Client::from_conf(config.build());
        let driver = Sqs::builder().client(client.clone());
        let sqs = runtime
            .block_on(driver.visibility_timeout(Duration::from_secs(60)).build())
            .expect("valid settings");
        Self {
            runtime,
            client,
            sqs,
            requests,
        }
    }

    /// A queue of its own, so that a request which still waits on another takes none of its messages.
    pub(crate) fn queue(&self) -> (StreamName, String) {
        let name = StreamName::new(format!("bench-{}", ksuid().expect("an id"))).expect("valid");
        let settings = NewQueues::new().without_dead_letters();
        self.runtime.block_on(async {
            let created = self.sqs.create_queue(&name, &settings).await;
            created.expect("a queue");
            let url = self.client.get_queue_url().queue_name(name.as_str());
            let url = url.send().await.expect("a queue").queue_url;
            (name, url.expect("a URL"))
        })
    }

    pub(crate) fn delete(&self, queue: &StreamName) {
        let deleted = self.runtime.block_on(self.sqs.delete_queue(queue));
        deleted.expect("the queue is deleted");
    }
}

/// Reads so many messages with a handler that does nothing, until SQS has confirmed that they are
/// deleted. How long that took.
pub(crate) async fn read(setup: &Setup, queue: &StreamName, messages: usize) -> Duration {
    let start = Instant::now();
    let bus = Bus::new(setup.sqs.clone());
    let handled = AtomicUsize::new(0);
    let all = Arc::new(Notify::new());
    let last = all.clone();
    bus.subscribe_stream(queue, move |_, _| {
        if handled.fetch_add(1, Ordering::Relaxed) + 1 == messages {
            last.notify_one();
        }
        std::future::ready(())
    })
    .register()
    .expect("a valid subscription");
    bus.start().await.expect("the bus starts");
    all.notified().await;
    bus.wait_until(|activity| activity.in_flight == 0).await;
    let took = start.elapsed();
    let report = bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(report.acknowledged(), messages as u64, "{report}");
    took
}

/// Messages of 256 bytes with a key of 100.
pub(crate) fn messages(stream: &StreamName, count: usize) -> Vec<Message> {
    let message = |number: usize| {
        let message = Message::builder(stream).data(vec![b'x'; SIZE]);
        let message = message.key(format!("key-{}", number % 100));
        message.build().expect("a valid message")
    };
    (0..count).map(message).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub(crate) fn per_second(messages: usize, took: Duration) -> f64 {
    messages as f64 / took.as_secs_f64()
}
