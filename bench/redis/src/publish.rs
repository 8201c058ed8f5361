//! Publishing: batches of 100, one after another.

use std::time::{Duration, Instant};

use redis::pipe;
use streams_bench::pairs::compare;
use streams_core::Driver as _;

use crate::setup::{BATCH, Setup, add, key, messages};

const MESSAGES: usize = 30_000;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let raw = || {
        let stream = setup.stream();
        let (key, messages) = (key(&stream), messages(&stream, MESSAGES));
        let took = setup.runtime.block_on(async {
            let mut connection = setup.raw().await;
            let begun = Instant::now();
            for batch in messages.chunks(BATCH) {
                let mut pipeline = pipe();
                batch
                    .iter()
                    .for_each(|message| add(&mut pipeline, &key, message));
                let ids: Vec<String> = pipeline.query_async(&mut connection).await.expect("added");
                assert_eq!(ids.len(), batch.len());
            }
            begun.elapsed()
        });
        setup.delete(&stream);
        took
    };
    let ours = || {
        let stream = setup.stream();
        let messages = messages(&stream, MESSAGES);
        let writer = setup.driver().writer();
        let took = setup.runtime.block_on(async {
            writer.flush().await.expect("flushed");
            let begun = Instant::now();
            for batch in messages.chunks(BATCH) {
                writer.write(batch).await.expect("written");
            }
            begun.elapsed()
        });
        setup.delete(&stream);
        took
    };
    let compared = compare(raw, ours);
    let rate = |took: Duration| MESSAGES as f64 / took.as_secs_f64();
    (
        compared.ratio,
        format!(
            "{:.0} messages/s; raw {:.0}",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}
