//! What the tests share.

use std::time::Duration;

use aws_sdk_sns::config::{BehaviorVersion, Credentials, Region};
use streams_amazon::{NewQueues, NewSubscription, Sns, SnsBuilder, Sqs, SqsBuilder};
use streams_core::{Driver, ReadOptions, StreamName};
use streams_services::Service;

use crate::failing;
use crate::messages::{PATIENCE, Reading};
use crate::proxy::HttpProxy;

const REGION: &str = "eu-west-1";

/// A topic with a queue that is read without a group, and SNS behind a proxy.
pub(crate) struct Setup {
    pub(crate) proxy: HttpProxy,
    pub(crate) sns: Sns,
    pub(crate) stream: StreamName,
}

pub(crate) async fn moto() -> String {
    let address = || Service::Moto.address().unwrap();
    tokio::task::spawn_blocking(address).await.unwrap()
}

/// Queues past the proxy: their faults are tested with SQS alone.
pub(crate) async fn queues() -> SqsBuilder {
    Sqs::builder()
        .region(REGION)
        .endpoint(moto().await)
        .access_key("local", "local")
        .visibility_timeout(PATIENCE)
        .wait(Duration::from_secs(1))
}

pub(crate) async fn driver(endpoint: &str) -> SnsBuilder {
    Sns::builder()
        .region(REGION)
        .endpoint(endpoint)
        .access_key("local", "local")
        .request_timeout(Duration::from_secs(2))
        .queues(queues().await.create_queues(NewQueues::new()))
}

/// A client that knows nothing of this toolkit.
pub(crate) async fn client() -> aws_sdk_sns::Client {
    let config = aws_sdk_sns::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(moto().await)
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"));
    aws_sdk_sns::Client::from_conf(config.build())
}

/// The ARN of a stream's topic.
pub(crate) fn arn(stream: &StreamName) -> String {
    format!("arn:aws:sns:{REGION}:123456789012:{stream}")
}

impl Setup {
    pub(crate) async fn with(
        stream: StreamName,
        settings: impl FnOnce(SnsBuilder) -> SnsBuilder,
    ) -> Self {
        let proxy = HttpProxy::start(&moto().await).await;
        let sns = settings(driver(&proxy.endpoint()).await).build().await;
        let sns = sns.unwrap();
        let plain = NewSubscription::new().queues(NewQueues::new().without_dead_letters());
        sns.create_subscription(&stream, &plain).await.unwrap();
        Self { proxy, sns, stream }
    }
}

impl failing::Setup for Setup {
    const BATCH: &str = "PublishBatch";
    const THROTTLED: &str = "ThrottledException";

    async fn of(stream: StreamName) -> Self {
        Self::with(stream, |driver| driver).await
    }

    fn driver(&self) -> &impl Driver {
        &self.sns
    }

    fn proxy(&self) -> &HttpProxy {
        &self.proxy
    }

    fn stream(&self) -> &StreamName {
        &self.stream
    }

    async fn reading(&self) -> Reading {
        Reading::of(&self.sns, &ReadOptions::new(&self.stream).unwrap()).await
    }
}
