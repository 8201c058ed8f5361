//! Each layer by itself, around handlers of single messages and of batches.

mod circuit_breaker;
mod correlation_id;
mod dead_letter;
mod dedup;
mod filter;
mod from_fn;
mod limits;
mod logging;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "opentelemetry")]
mod otel;
mod retry;
mod retry_writer;
mod support;
mod timeout;
