//! Writing.

use std::time::{Duration, Instant};

use streams_bench::pairs::compare;
use streams_core::{Driver as _, Message};

use crate::raw;
use crate::setup::{Setup, messages, per_second};

/// Messages each side writes in a turn.
const MESSAGES: usize = 5_000;
/// Requests at the same time, as the driver has it by itself.
const AT_ONCE: usize = 16;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let turn = |ours: bool| {
        let (queue, url) = setup.queue();
        // Made before, on both sides: what is measured is writing them.
        let all = messages(&queue, MESSAGES);
        let took = if ours {
            setup.runtime.block_on(write(setup, &all))
        } else {
            let write = raw::write(&setup.client, &url, &all, AT_ONCE);
            setup.runtime.block_on(write)
        };
        setup.delete(&queue);
        took
    };
    let compared = compare(|| turn(false), || turn(true));
    (
        compared.ratio,
        format!(
            "{:.0} messages/s, {AT_ONCE} requests at once; the raw client {:.0}",
            per_second(MESSAGES, compared.b),
            per_second(MESSAGES, compared.a),
        ),
    )
}

async fn write(setup: &Setup, messages: &[Message]) -> Duration {
    let start = Instant::now();
    let written = setup.sqs.writer().write(messages).await;
    written.expect("written");
    start.elapsed()
}
