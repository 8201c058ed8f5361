//! Reading: received, handled, deleted.

use streams_bench::pairs::compare;

use crate::raw;
use crate::setup::{Setup, messages, per_second, read};

/// Messages each side reads in a turn.
const MESSAGES: usize = 5_000;
/// Requests for messages at the same time, as the driver has it by itself.
const AT_ONCE: usize = 8;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let filled = || {
        let (queue, url) = setup.queue();
        let all = messages(&queue, MESSAGES);
        let fill = raw::write(&setup.client, &url, &all, 16);
        setup.runtime.block_on(fill);
        (queue, url)
    };
    let compared = compare(
        || {
            let (queue, url) = filled();
            let read = raw::read(&setup.client, &url, MESSAGES, AT_ONCE);
            let took = setup.runtime.block_on(read);
            setup.delete(&queue);
            took
        },
        || {
            let (queue, _) = filled();
            let took = setup.runtime.block_on(read(setup, &queue, MESSAGES));
            setup.delete(&queue);
            took
        },
    );
    (
        compared.ratio,
        format!(
            "{:.0} messages/s handled, {AT_ONCE} requests at once; the raw client {:.0}",
            per_second(MESSAGES, compared.b),
            per_second(MESSAGES, compared.a),
        ),
    )
}
