//! Requests, which AWS bills.

use std::time::Duration;

use streams_core::{Bus, Driver as _};

use crate::setup::{Setup, messages, read};

const MESSAGES: usize = 10_000;

/// Published in one batch and handled, for each 1,000 messages.
pub(crate) fn of_messages(setup: &Setup) -> (f64, String) {
    let (queue, _) = setup.queue();
    let all = messages(&queue, MESSAGES);
    let before = setup.requests.count();
    let written = setup.runtime.block_on(setup.sqs.writer().write(&all));
    written.expect("written");
    let to_write = setup.requests.count() - before;
    setup.runtime.block_on(read(setup, &queue, MESSAGES));
    let requests = setup.requests.count() - before;
    setup.delete(&queue);
    let note = format!("{MESSAGES} messages, {requests} requests, {to_write} of them to write");
    (per_thousand(requests), note)
}

/// Of a subscription without a message, in its first minute.
pub(crate) fn idle(setup: &Setup) -> (f64, String) {
    let (queue, _) = setup.queue();
    let requests = setup.runtime.block_on(async {
        let bus = Bus::new(setup.sqs.clone());
        bus.subscribe_stream(&queue, |_, _| std::future::ready(()))
            .register()
            .expect("a valid subscription");
        bus.start().await.expect("the bus starts");
        let before = setup.requests.count();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let requests = setup.requests.count() - before;
        bus.shutdown(Duration::from_secs(10)).await;
        requests
    });
    setup.delete(&queue);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let requests = requests as f64;
    (requests, "a request waits for 20 s".to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn per_thousand(requests: usize) -> f64 {
    requests as f64 * 1000.0 / MESSAGES as f64
}
