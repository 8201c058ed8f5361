//! Batch handlers: an outcome for each item, and what a missing or failed one means for the others.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{message, text};
use streams_chanbuf::testing::TestBus;
use streams_core::{Batch, Context, HandlerError, Outcome};

#[tokio::test(start_paused = true)]
async fn a_batch_item_that_fails_takes_the_later_ones_of_its_key_with_it() {
    let test = TestBus::new().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    test.bus()
        .subscribe_batch("a", 64, {
            let seen = seen.clone();
            move |batch: Batch| {
                let seen = seen.clone();
                async move {
                    let one = |context: &Context| {
                        let name = text(context.message());
                        seen.lock().unwrap().push(name.clone());
                        if name == "a1" && context.attempt() == 1 {
                            return Err(HandlerError::new("again"));
                        }
                        Ok(Outcome::Ack)
                    };
                    batch.iter().map(one).collect()
                }
            }
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = ["a0", "b0", "a1", "a2", "b1"]
        .iter()
        .map(|name| message("a", Some(&name[..1]), name))
        .collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    let seen = seen.lock().unwrap();
    let of = |key: char| {
        seen.iter()
            .filter(|name| name.starts_with(key))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(of('a'), ["a0", "a1", "a2", "a1", "a2"]);
    assert_eq!(of('b'), ["b0", "b1"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_that_forgets_results_acknowledges_nothing_by_it() {
    let test = TestBus::new().unwrap();
    test.bus()
        .subscribe_batch("a", 10, |_: Batch| async {
            [Ok(Outcome::Ack)].into_iter().collect()
        })
        .group("g")
        .register()
        .unwrap();
    test.bus().start().await.unwrap();
    let batch: Vec<_> = (0..3).map(|i| message("a", None, &i.to_string())).collect();
    test.bus().publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    // Each time the first of the batch is taken as said; at the end one is alone.
    let report = test.bus().shutdown(Duration::from_secs(1)).await;
    assert_eq!(report.acknowledged(), 3, "{report}");
    assert!(report.subscriptions[0].retried >= 2, "{report}");
}
