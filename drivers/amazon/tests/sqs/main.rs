//! SQS beyond the conformance kit: the format, queues, requests, faults.

#[path = "../common/mod.rs"]
mod common;
mod format;
#[allow(dead_code, reason = "SNS has other faults")]
#[path = "../common/proxy.rs"]
mod proxy;
mod queues;
mod reading;
mod requests;
mod support;
mod writing;
