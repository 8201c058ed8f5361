//! What the conformance kit does not ask, on real servers.

mod behaviour;
mod dedup;
mod faults;
mod filter;
mod go_pulse;
mod modes;
mod other;
mod processes;
mod pulse;
mod scheduled;
mod slow;
mod streams;
mod support;
mod trim;
