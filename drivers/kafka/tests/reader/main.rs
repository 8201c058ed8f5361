//! Reading from a real broker: what the conformance kit cannot know of Kafka.

mod commits;
mod concurrency;
mod faults;
mod logs;
mod membership;
mod metrics;
mod positions;
mod rebalance;
mod records;
mod security;
mod state;
mod strategies;
mod support;
mod tables;
mod topics;
mod transactions;
