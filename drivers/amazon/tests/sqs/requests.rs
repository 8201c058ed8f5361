//! AWS bills by request: how many there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sqs::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_sqs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sqs::error::BoxError;
use streams_amazon::Sqs;
use streams_core::{Bus, Driver};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::failing::Setup as _;
use crate::support::{Setup, elasticmq};

/// Counts requests by what they ask for, each time one is sent.
#[derive(Debug, Clone, Default)]
struct Requests(Arc<Mutex<BTreeMap<String, usize>>>);

impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let target = context.request().headers().get("x-amz-target");
        let target = target.unwrap_or_default().to_owned();
        *self.0.lock().unwrap().entry(target).or_default() += 1;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_take_three_hundred_and_thirty_requests_at_most() {
    const MESSAGES: usize = 10_000;
    // It is about how many there are, not about how long they take.
    const LONG: Duration = Duration::from_secs(180);
    let setup = Setup::new("thrift").await;
    let requests = Requests::default();
    let client = crate::common::client(&elasticmq().await);
    let counting = client.config().to_builder().interceptor(requests.clone());
    let client = aws_sdk_sqs::Client::from_conf(counting.build());
    let sqs = Sqs::builder().client(client).build().await.unwrap();

    let messages = setup.messages(MESSAGES, 100);
    sqs.writer().write(&messages).await.unwrap();
    let handled = AtomicUsize::new(0);
    let all = Arc::new(Notify::new());
    let done = all.clone();
    let bus = Bus::new(sqs);
    bus.subscribe_stream(&setup.stream, move |_, _| {
        if handled.fetch_add(1, Ordering::Relaxed) + 1 == MESSAGES {
            done.notify_one();
        }
        async {}
    })
    .register()
    .unwrap();
    bus.start().await.unwrap();
    timeout(LONG, all.notified()).await.unwrap();
    let report = bus.shutdown(LONG).await;
    assert_eq!(report.acknowledged(), MESSAGES as u64, "{report}");
    let requests = requests.0.lock().unwrap();
    let count: usize = requests.values().sum();
    println!("{count} requests for {MESSAGES} messages: {requests:?}");
    assert!(count <= 330 * MESSAGES / 1000, "{requests:?}");
}

#[tokio::test]
async fn an_idle_reader_has_one_request_that_waits_as_long_as_it_can() {
    let setup = Setup::new("idle").await;
    // It was busy before.
    setup.write(&setup.messages(50, 50)).await;
    let mut reading = setup.subscribe().await;
    let deliveries = reading.take(50).await;
    let acks = deliveries
        .into_iter()
        .map(streams_core::Delivery::ack)
        .collect();
    reading.settle(acks).await;
    reading.0.close().await.unwrap();

    let before = setup.proxy.requests("ReceiveMessage").len();
    let mut idle = setup.subscribe().await;
    assert!(idle.next_within(Duration::from_secs(3)).await.is_none());
    let requests = setup.proxy.requests("ReceiveMessage").split_off(before);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0]["WaitTimeSeconds"], 20);
    assert_eq!(setup.sqs.writer().capabilities().driver, "sqs");
}
