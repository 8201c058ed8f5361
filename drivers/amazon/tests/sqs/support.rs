//! What the tests share.

use std::time::Duration;

use aws_sdk_sqs::Client;
use streams_amazon::{NewQueues, Sqs, SqsOptions};
use streams_core::{Driver, ReadOptions, StreamName};
use streams_services::Service;

use crate::common::{client, driver, on_thread};
use crate::failing;
use crate::messages::{PATIENCE, Reading};
use crate::proxy::HttpProxy;

/// A queue of a test's own, with the server behind a proxy.
pub(crate) struct Setup {
    pub(crate) proxy: HttpProxy,
    pub(crate) sqs: Sqs,
    pub(crate) stream: StreamName,
    /// Past the proxy.
    pub(crate) client: Client,
    pub(crate) url: String,
}

/// The server of most tests: the faster, and the stricter with what it takes.
pub(crate) async fn elasticmq() -> String {
    on_thread(|| Service::ElasticMq.address().unwrap()).await
}

/// The server for what ElasticMQ does not do as SQS does.
pub(crate) async fn moto() -> String {
    on_thread(|| Service::Moto.address().unwrap()).await
}

impl Setup {
    pub(crate) async fn subscribe(&self) -> Reading {
        self.subscribe_with(SqsOptions::new()).await
    }

    pub(crate) async fn subscribe_with(&self, own: SqsOptions) -> Reading {
        let mut options = ReadOptions::new(&self.stream).unwrap();
        options.driver.insert(own);
        Reading::of(&self.sqs, &options).await
    }
}

impl failing::Setup for Setup {
    const BATCH: &str = "SendMessageBatch";
    const THROTTLED: &str = "RequestThrottled";

    async fn of(stream: StreamName) -> Self {
        let server = elasticmq().await;
        let proxy = HttpProxy::start(&server).await;
        let sqs = driver(&proxy.endpoint())
            .visibility_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(2))
            .build()
            .await
            .unwrap();
        let settings = NewQueues::new().without_dead_letters();
        sqs.create_queue(&stream, &settings).await.unwrap();
        let client = client(&server);
        let url = client.get_queue_url().queue_name(stream.as_str());
        let url = url.send().await.unwrap().queue_url.unwrap();
        Self {
            proxy,
            sqs,
            stream,
            client,
            url,
        }
    }

    fn driver(&self) -> &impl Driver {
        &self.sqs
    }

    fn proxy(&self) -> &HttpProxy {
        &self.proxy
    }

    fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// The leases of others are short, for tests that wait for their end.
    async fn reading(&self) -> Reading {
        let options = SqsOptions::new().visibility_timeout(PATIENCE);
        self.subscribe_with(options).await
    }
}
