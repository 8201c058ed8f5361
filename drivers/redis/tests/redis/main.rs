//! What the conformance kit does not ask, on real servers.

mod behaviour;
mod dedup;
mod faults;
mod modes;
mod pulse;
mod scheduled;
mod streams;
mod support;
mod trim;
