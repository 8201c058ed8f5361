//! The driver against DynamoDB Local.

mod cost;
mod destination;
mod faults;
mod inbox;
mod outbox;
mod proxy;
mod random;
mod relay;
mod shards;
mod support;
