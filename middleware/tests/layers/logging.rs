use std::time::Duration;

use streams_core::{Context, Handler, HandlerError, Layer, Message, Outcome, message_fn};
use streams_middleware::Logging;
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::support::{Log, batch, batched, delivery, single, unavailable};

#[tokio::test(start_paused = true)]
async fn the_level_follows_the_outcome() {
    let log = Log::capture(LevelFilter::TRACE);
    let handler = Logging::new().layer(single(|data| match data {
        "ack" => Ok(Outcome::Ack),
        "release" => Ok(Outcome::Release),
        "retry" => Ok(Outcome::retry_after(Duration::from_secs(3))),
        "dead_letter" => Ok(Outcome::dead_letter("no such tenant")),
        _ => Err(HandlerError::new(unavailable()).exhausted()),
    }));
    let cases = [
        ("ack", Level::DEBUG, None),
        ("release", Level::DEBUG, None),
        ("retry", Level::WARN, Some(("delay", "3s"))),
        (
            "dead_letter",
            Level::ERROR,
            Some(("reason", "no such tenant")),
        ),
        ("error", Level::ERROR, Some(("error", "down for a moment"))),
    ];
    for (index, (outcome, level, more)) in cases.into_iter().enumerate() {
        let message = crate::support::message(outcome);
        let context = Context::for_test(message.clone()).with_attempt(2);
        let _ = handler.handle(&context).await;
        let event = &log.events("logging")[index];
        assert_eq!(event.level, level, "{outcome}");
        let expected = [
            ("stream", "orders"),
            ("group", "test"),
            ("id", message.id().as_str()),
            ("attempt", "2"),
            ("driver", "test"),
            ("outcome", outcome),
            ("elapsed", "0ns"),
        ];
        for (name, value) in expected.into_iter().chain(more) {
            assert_eq!(event.get(name), Some(value), "{outcome}: {name}");
        }
        let all = format!("{event:?}");
        assert!(!all.contains("hidden"), "a header's value: {all}");
    }
}

#[tokio::test]
async fn data_is_never_logged() {
    let log = Log::capture(LevelFilter::TRACE);
    let handler = Logging::new().layer(single(|_| Err(unavailable().into())));
    let message = Message::builder("orders")
        .data("classified")
        .build()
        .unwrap();
    let _ = handler.handle(&Context::for_test(message)).await;
    let events = log.events("logging");
    assert_eq!(events.len(), 1);
    assert!(!format!("{events:?}").contains("classified"));
}

#[tokio::test(start_paused = true)]
async fn time_is_measured_only_for_a_level_that_is_on() {
    let slow = || {
        Logging::new().layer(message_fn(|_, _| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Err::<(), _>(unavailable())
        }))
    };
    {
        let log = Log::capture(LevelFilter::DEBUG);
        let _ = slow().handle(&delivery()).await;
        assert_eq!(log.events("logging")[0].get("elapsed"), Some("2s"));
    }
    let log = Log::capture(LevelFilter::INFO);
    let _ = slow().handle(&delivery()).await;
    assert_eq!(log.events("logging")[0].get("elapsed"), None);
}

#[tokio::test]
async fn levels_can_be_set() {
    let log = Log::capture(LevelFilter::INFO);
    let handler = Logging::new()
        .ack_level(Level::INFO)
        .retry_level(Level::DEBUG)
        .failure_level(Level::WARN)
        .layer(single(|data| match data {
            "ack" => Ok(Outcome::Ack),
            "retry" => Ok(Outcome::Retry { after: None }),
            _ => Err(unavailable().into()),
        }));
    for data in ["ack", "retry", "error"] {
        let _ = handler
            .handle(&Context::for_test(crate::support::message(data)))
            .await;
    }
    let levels: Vec<_> = log
        .events("logging")
        .iter()
        .map(|event| event.level)
        .collect();
    assert_eq!(
        levels,
        [Level::INFO, Level::WARN],
        "the retry's level is off"
    );
}

#[tokio::test]
async fn each_delivery_of_a_batch_has_its_event() {
    let log = Log::capture(LevelFilter::DEBUG);
    let handler = Logging::new().layer(batched(|data| match data {
        "down" => Err(unavailable().into()),
        _ => Ok(Outcome::Ack),
    }));
    let results = handler
        .handle(&batch(&["a", "down", "b"]))
        .await
        .into_results();
    assert!(results[1].is_err(), "results pass untouched");
    let outcomes: Vec<_> = log
        .events("logging")
        .iter()
        .map(|event| event.get("outcome").unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["ack", "error", "ack"]);
}
