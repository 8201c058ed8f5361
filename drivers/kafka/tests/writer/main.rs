//! Writing, on a real broker. What was written is read back by a plain client.

mod faults;
mod lifecycle;
mod limits;
mod messages;
mod order;
mod partitions;
mod security;
mod support;
mod topics;
mod transactions;
