//! Tests against the real databases. A test is written once and runs on each: see `support`.

#[macro_use]
mod each;
mod inbox;
mod outbox;
mod recorder;
mod relay;
mod schema;
mod support;
mod wal;
