//! The conformance kit on the in-memory driver, in each of its main configurations.

use std::time::Duration;

use streams_chanbuf::{Chanbuf, ChanbufBuilder};
use streams_core::{AnyDriver, Result, async_trait};
use streams_testkit::Harness;

/// One broker for all cases, as one server would be.
struct InMemory {
    name: &'static str,
    broker: Chanbuf,
}

impl InMemory {
    fn new(name: &'static str, builder: ChanbufBuilder) -> Self {
        Self {
            name,
            broker: builder.build().unwrap(),
        }
    }
}

#[async_trait]
impl Harness for InMemory {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.broker))
    }

    fn name(&self) -> Option<String> {
        Some(self.name.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn default() {
    let harness = InMemory::new("chanbuf", Chanbuf::builder());
    streams_testkit::run(harness).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_leases() {
    let builder = Chanbuf::builder()
        .lease(Duration::from_secs(2))
        .largest_message(256 << 10);
    let harness = InMemory::new("chanbuf (leases)", builder);
    streams_testkit::run(harness).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retention() {
    let harness = InMemory::new(
        "chanbuf (retention)",
        Chanbuf::builder().retain(20_000).capacity(20_000),
    );
    streams_testkit::run(harness).await.assert_passed();
}
