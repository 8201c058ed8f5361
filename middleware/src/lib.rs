#![doc = include_str!("../README.md")]

pub mod circuit_breaker;
pub mod concurrency_limit;
pub mod correlation_id;
pub mod dead_letter;
pub mod dedup;
pub mod filter;
pub mod from_fn;
pub mod logging;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "opentelemetry")]
pub mod otel;
pub mod rate_limit;
pub mod retry;
pub mod retry_writer;
pub mod timeout;
mod wait;

use streams_core::{Message, WriteError, Writer};

#[doc(no_inline)]
pub use circuit_breaker::CircuitBreaker;
#[doc(no_inline)]
pub use concurrency_limit::ConcurrencyLimit;
#[doc(no_inline)]
pub use correlation_id::CorrelationId;
#[doc(no_inline)]
pub use dead_letter::DeadLetters;
#[doc(no_inline)]
pub use dedup::Deduplication;
#[cfg(feature = "moka")]
#[doc(no_inline)]
pub use dedup::MokaStorage;
#[doc(no_inline)]
pub use filter::Filter;
#[doc(no_inline)]
pub use from_fn::{Next, from_fn};
#[doc(no_inline)]
pub use logging::Logging;
#[cfg(feature = "metrics")]
#[doc(no_inline)]
pub use metrics::Metrics;
#[cfg(feature = "opentelemetry")]
#[doc(no_inline)]
pub use otel::{TraceContext, TracedWriter};
#[doc(no_inline)]
pub use rate_limit::RateLimit;
#[doc(no_inline)]
pub use retry::Retry;
#[doc(no_inline)]
pub use retry_writer::RetryWriter;
#[doc(no_inline)]
pub use timeout::Timeout;

/// Writes through the writer's fast path where it has one.
async fn write_through(writer: &dyn Writer, batch: &[Message]) -> Result<(), WriteError> {
    match writer.try_write(batch) {
        Some(result) => result,
        None => writer.write(batch).await,
    }
}
