//! What bounds writing, to queues as to topics.

use streams_core::{DriverUrl, Error, Result};
use tokio::sync::Semaphore;

/// What AWS takes in one request, unless an account has it otherwise.
const LARGEST_REQUEST: usize = 256 << 10;
/// Data that fits with this much of attributes, whatever its bytes are.
const ROOM_FOR_ATTRIBUTES: usize = 16 << 10;

/// The settings of writers.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) send_concurrency: usize,
    pub(crate) largest_request: usize,
    /// What always fits, unless it is set.
    pub(crate) largest_message: Option<usize>,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self {
            send_concurrency: 16,
            largest_request: LARGEST_REQUEST,
            largest_message: None,
        }
    }

    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        let mut this = Self::new();
        if let Some(requests) = url.parse_parameter("send_concurrency")? {
            this.send_concurrency = requests;
        }
        if let Some(bytes) = url.parse_parameter("largest_request")? {
            this.largest_request = bytes;
        }
        this.largest_message = url.parse_parameter("largest_message")?;
        Ok(this)
    }

    /// How many bytes of data a message may have. Data that is not text grows by a third.
    pub(crate) fn largest_message(&self) -> usize {
        let fits = self.largest_request.saturating_sub(ROOM_FOR_ATTRIBUTES) / 4 * 3;
        self.largest_message.unwrap_or(fits)
    }

    /// For each request that writes.
    pub(crate) fn permits(&self) -> Semaphore {
        Semaphore::new(self.send_concurrency)
    }

    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for what cannot be.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |message: &str| Err(Error::invalid_config(message));
        if !(1..=1024).contains(&self.send_concurrency) {
            return bad("the send concurrency is out of range; use 1 to 1024");
        }
        if !(32 << 10..=1 << 20).contains(&self.largest_request) {
            return bad("the largest request is out of range; use 32 KiB to 1 MiB");
        }
        if !(1..=self.largest_request).contains(&self.largest_message()) {
            return bad("the largest message is 0 or over the largest request; use less");
        }
        Ok(())
    }
}
