//! Reading from a real broker: what the conformance kit cannot know of Kafka.

mod concurrency;
mod faults;
mod positions;
mod rebalance;
mod records;
mod support;
mod tables;
