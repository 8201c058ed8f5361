//! The conformance kit on topics of moto, each group with a queue that is subscribed to them.

use std::time::Duration;

use streams_amazon::{NewQueues, Sns, SnsBuilder, Sqs};
use streams_core::{AnyDriver, Error, ErrorKind, Result, StreamName, async_trait};
use streams_services::Service;
use streams_testkit::{
    ForeignProducer, Harness, Profile, ReaderProcess, RunOptions, Scale, this_test,
};

/// Tells a process the kit starts where the server is.
const ENDPOINT: &str = "STREAMS_SNS_CONFORMANCE_ENDPOINT";

const REGION: &str = "eu-west-1";

struct Topics {
    endpoint: String,
}

impl Topics {
    fn driver(&self) -> SnsBuilder {
        Sns::builder()
            .region(REGION)
            .endpoint(&self.endpoint)
            .access_key("local", "local")
            .queues(
                Sqs::builder()
                    // The kit waits for the end of leases.
                    .visibility_timeout(Duration::from_secs(6))
                    // moto asks for messages in a loop while a request waits, and does not notice
                    // when who asked is gone.
                    .wait(Duration::from_secs(1))
                    .receive_concurrency(2)
                    .create_queues(NewQueues::new().without_dead_letters()),
            )
    }
}

#[async_trait]
impl Harness for Topics {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.driver().build().await?))
    }

    fn name(&self) -> Option<String> {
        Some("sns to sqs".to_owned())
    }

    /// The name of a queue, which has the group's behind the stream's, has 80 characters.
    fn stream_name(&self, _case: &str) -> String {
        format!("s{:016x}", fastrand::u64(..))
    }

    async fn create(&self, stream: &StreamName) -> Result<()> {
        self.driver().build().await?.create_topic(stream).await
    }

    async fn remove(&self, stream: &StreamName) -> Result<()> {
        self.driver().build().await?.delete_topic(stream).await
    }

    fn profile(&self) -> Profile {
        Profile::default()
            // It is slow.
            .patience(Duration::from_secs(30))
            .members(5)
            // Times are in whole seconds.
            .tick(Duration::from_secs(1))
    }

    fn refused_stream(&self) -> Option<StreamName> {
        StreamName::new("no/topic").ok()
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        Some(this_test("reader_process").env(ENDPOINT, &self.endpoint))
    }
}

#[async_trait]
impl ForeignProducer for Topics {
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        let config = aws_sdk_sns::Config::builder()
            .behavior_version(aws_sdk_sns::config::BehaviorVersion::latest())
            .region(aws_sdk_sns::config::Region::new(REGION))
            .endpoint_url(&self.endpoint)
            .credentials_provider(aws_sdk_sns::config::Credentials::new(
                "local", "local", None, None, "tests",
            ));
        let client = aws_sdk_sns::Client::from_conf(config.build());
        let failed = |error| Error::new(ErrorKind::Other, format!("{error:?}"));
        let text = String::from_utf8_lossy(data).into_owned();
        let arn = format!("arn:aws:sns:{REGION}:123456789012:{stream}");
        let publish = client.publish().topic_arn(arn).message(text);
        publish.send().await.map(drop).map_err(failed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics() {
    let address = || Service::Moto.address().unwrap();
    let endpoint = tokio::task::spawn_blocking(address).await.unwrap();
    let harness = Topics { endpoint };
    // For each message it looks at all there are.
    let options = RunOptions::from_env().scale(Scale::Quick).parallel(1);
    let report = streams_testkit::run_with(harness, options).await;
    report.assert_passed();
}

/// Does nothing unless the kit has started it as a process of its own.
#[test]
fn reader_process() {
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        ReaderProcess::serve(&Topics { endpoint });
    }
}
