//! What the tests share.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use streams_amazon::{Sqs, SqsBuilder};

pub(crate) const REGION: &str = "eu-west-1";

/// A driver for a local server, which takes any access key.
pub(crate) fn driver(endpoint: &str) -> SqsBuilder {
    Sqs::builder()
        .region(REGION)
        .endpoint(endpoint)
        .access_key("local", "local")
}

/// A client for the same server that knows nothing of this toolkit.
pub(crate) fn client(endpoint: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"));
    Client::from_conf(config.build())
}

/// Runs what blocks, such as starting a server.
pub(crate) async fn on_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}
