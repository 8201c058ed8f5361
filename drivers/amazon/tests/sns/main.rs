//! SNS beyond the conformance kit: the format, the chain to queues, faults.

mod chain;
mod format;
#[allow(dead_code, reason = "SQS has more faults")]
#[path = "../common/proxy.rs"]
mod proxy;
mod support;
mod writing;
