use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use streams_core::{Context, Handler, HandlerError, Layer, Outcome, message_fn};
use streams_middleware::Metrics;
use streams_middleware::metrics::{HANDLED, IN_FLIGHT, SECONDS};
use tokio::time::{sleep, timeout};

use crate::support::{batch, batched, delivery, message, poison, single, unavailable};

/// Metrics by name and outcome.
fn values(snapshotter: &Snapshotter) -> BTreeMap<(String, String), DebugValue> {
    let mut values = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: BTreeMap<_, _> = key.key().labels().map(|l| (l.key(), l.value())).collect();
        assert_eq!(labels["stream"], "orders");
        assert_eq!(labels["group"], "test");
        let outcome = labels.get("outcome").copied().unwrap_or_default();
        values.insert((key.key().name().to_owned(), outcome.to_owned()), value);
    }
    values
}

fn counts(values: &BTreeMap<(String, String), DebugValue>) -> Vec<(&str, u64)> {
    let handled = values.iter().filter(|((name, _), _)| name == HANDLED);
    handled
        .filter_map(|((_, outcome), value)| match value {
            DebugValue::Counter(0) => None,
            DebugValue::Counter(count) => Some((outcome.as_str(), *count)),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn histogram(values: &BTreeMap<(String, String), DebugValue>) -> Vec<f64> {
    match &values[&(SECONDS.to_owned(), String::new())] {
        DebugValue::Histogram(values) => values.iter().map(|value| value.into_inner()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_counted_and_calls_timed() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let handler = Metrics::new().layer(single(|data| match data {
        "retry" => Ok(Outcome::Retry { after: None }),
        "release" => Ok(Outcome::Release),
        "asked" => Ok(Outcome::dead_letter("why")),
        "poison" => Err(poison().into()),
        "exhausted" => Err(HandlerError::new(unavailable()).exhausted()),
        "down" => Err(unavailable().into()),
        _ => Ok(Outcome::Ack),
    }));
    for data in [
        "a",
        "b",
        "retry",
        "release",
        "asked",
        "poison",
        "exhausted",
        "down",
    ] {
        let _ = handler.handle(&Context::for_test(message(data))).await;
    }
    let values = values(&snapshotter);
    let expected = [
        ("ack", 2),
        ("dead_letter", 3),
        ("error", 1),
        ("release", 1),
        ("retry", 1),
    ];
    assert_eq!(counts(&values), expected);
    assert_eq!(histogram(&values).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_in_flight_and_what_is_dropped_counted_so() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let in_flight = |values: &BTreeMap<_, _>| match values[&(IN_FLIGHT.to_owned(), String::new())] {
        DebugValue::Gauge(value) => value.into_inner(),
        ref other => panic!("{other:?}"),
    };
    let (seen, log) = (
        recorder.snapshotter(),
        std::sync::Arc::new(std::sync::Mutex::new(Vec::new())),
    );
    let logged = log.clone();
    let handler = Metrics::new().layer(message_fn(move |_, _| {
        logged.lock().unwrap().push(in_flight(&values(&seen)));
        sleep(Duration::from_secs(5))
    }));
    assert!(
        timeout(Duration::from_secs(2), handler.handle(&delivery()))
            .await
            .is_err()
    );
    assert_eq!(*log.lock().unwrap(), [1.0]);
    let values = values(&snapshotter);
    // A snapshot starts the gauge anew, so this is the change since the last.
    assert_eq!(in_flight(&values), -1.0);
    assert_eq!(counts(&values), [("dropped", 1)]);
    assert_eq!(histogram(&values), [2.0]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_counted_by_message_and_timed_as_one() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let handler = Metrics::new().layer(batched(|data| match data {
        "down" => Err(unavailable().into()),
        _ => Ok(Outcome::Ack),
    }));
    let results = handler
        .handle(&batch(&["a", "down", "b"]))
        .await
        .into_results();
    assert!(results[1].is_err());
    let values = values(&snapshotter);
    assert_eq!(counts(&values), [("ack", 2), ("error", 1)]);
    assert_eq!(histogram(&values).len(), 1);
}
