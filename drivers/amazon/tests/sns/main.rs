//! SNS beyond the conformance kit: the format, the chain to queues, faults.

mod chain;
#[path = "../common/failing.rs"]
mod failing;
mod format;
#[allow(dead_code, reason = "queues are read in more ways")]
#[path = "../common/messages.rs"]
mod messages;
#[allow(dead_code, reason = "SQS has more faults")]
#[path = "../common/proxy.rs"]
mod proxy;
mod support;
mod writing;
