//! What there is to read without queues: nothing.

use std::sync::Arc;

use async_trait::async_trait;
use streams_core::{Capabilities, Error, ReadOptions, Reader, Result, Subscription};

use super::{DRIVER, Inner};

pub(super) struct NoReader {
    inner: Arc<Inner>,
}

impl NoReader {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Reader for NoReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let error = Error::unsupported(
            DRIVER,
            "a topic is read from a queue; switch on the feature `sqs` of streams-amazon",
        );
        Err(error.operation("subscribe").with("stream", &options.stream))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }
}
