//! SQS beyond the conformance kit: the format, queues, requests, faults.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing.rs"]
mod failing;
mod format;
#[path = "../common/messages.rs"]
mod messages;
#[allow(dead_code, reason = "SNS has other faults")]
#[path = "../common/proxy.rs"]
mod proxy;
mod queues;
mod reading;
mod requests;
mod support;
mod writing;
