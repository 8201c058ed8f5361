//! Bad input and misuse: each gets a clear error that says what to do, and nothing is lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_chanbuf::testing::TestBus;
use streams_core::{
    Backoff, Batch, Bus, Context, DriverRegistry, Error, ErrorKind, Event, FailurePolicy, Message,
    Ordering, Publisher, Schema, StartFrom, dead_letter,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "user.created", key = "user_id")]
struct UserCreated {
    user_id: String,
}

fn user(user_id: &str) -> UserCreated {
    UserCreated {
        user_id: user_id.to_owned(),
    }
}

/// The error is of this kind and its text has each of these hints.
#[track_caller]
fn says(error: &Error, kind: ErrorKind, hints: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for hint in hints {
        assert!(text.contains(hint), "`{text}` does not say `{hint}`");
    }
}

async fn nothing(_: Message, _: Context) {}

#[test]
fn an_empty_message_is_refused() {
    let error = Message::builder("a").build().unwrap_err();
    says(&error, ErrorKind::EmptyMessage, &["`data`", "stream=a"]);
}

#[tokio::test]
async fn a_driver_refuses_an_empty_message_too() {
    let chanbuf = Chanbuf::builder().retain(10).build().unwrap();
    let empty = Message::builder("a").build_received().unwrap();
    let full = Message::builder("a").data("x").build().unwrap();
    let writer = streams_core::Driver::writer(&chanbuf);
    let error = writer
        .write(&[full.clone(), empty, full])
        .await
        .unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    says(&error.into_error(), ErrorKind::EmptyMessage, &["`data`"]);
}

#[tokio::test]
async fn an_unregistered_event_is_refused() {
    let bus = Bus::new(Chanbuf::new());
    let error = bus.publish(&user("1")).await.unwrap_err();
    says(
        &error,
        ErrorKind::EventNotFound,
        &["register", "UserCreated"],
    );
}

#[test]
fn an_event_without_a_stream_must_be_registered_to_one() {
    #[derive(Serialize, Deserialize)]
    struct Bare;
    impl Event for Bare {
        fn schema() -> Schema<Self> {
            Schema::json("Bare")
        }
    }
    let bus = Bus::builder(Chanbuf::new()).event::<Bare>().build();
    says(
        &bus.unwrap_err(),
        ErrorKind::InvalidConfig,
        &["register_to", "Bare"],
    );
    let bus = Bus::builder(Chanbuf::new())
        .event_to::<Bare>("bare")
        .build()
        .unwrap();
    assert_eq!(bus.registry().stream_of::<Bare>().unwrap(), "bare");
    let bus = Bus::new(Chanbuf::new());
    let error = bus
        .subscribe_event(|_: Bare, _| async {})
        .group("g")
        .register()
        .unwrap_err();
    says(&error, ErrorKind::EventNotFound, &["register"]);
}

#[test]
fn an_event_without_a_codec_is_refused() {
    struct Mute;
    impl Event for Mute {
        fn schema() -> Schema<Self> {
            Schema::new("Mute").stream("mute")
        }
    }
    let bus = Bus::builder(Chanbuf::new()).event::<Mute>().build();
    says(
        &bus.unwrap_err(),
        ErrorKind::InvalidConfig,
        &["no codec", "Schema::json"],
    );
}

#[test]
fn registering_an_event_under_two_streams_is_a_conflict() {
    let bus = Bus::builder(Chanbuf::new())
        .event::<UserCreated>()
        .build()
        .unwrap();
    bus.registry().register::<UserCreated>().unwrap();
    let error = bus
        .registry()
        .register_to::<UserCreated>("people")
        .unwrap_err();
    says(
        &error,
        ErrorKind::Conflict,
        &["user.created", "people", "register it once"],
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_bus_without_subscriptions_does_not_start() {
    let bus = Bus::new(Chanbuf::new());
    let error = bus.start().await.unwrap_err();
    says(
        &error,
        ErrorKind::NoSubscriberRegistered,
        &["subscribe", "register"],
    );
    let error = bus.run(async {}).await.unwrap_err();
    says(&error, ErrorKind::NoSubscriberRegistered, &[]);
}

#[tokio::test]
async fn publishing_to_a_stream_that_nobody_holds_is_said() {
    let bus = Bus::builder(Chanbuf::new())
        .event::<UserCreated>()
        .build()
        .unwrap();
    let error = bus.publish(&user("1")).await.unwrap_err();
    says(
        &error,
        ErrorKind::NoSubscriberRegistered,
        &["nobody holds", "user.created", "subscribe"],
    );
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let bus = Bus::new(Chanbuf::new());
    let subscribe = || bus.subscribe_stream("a", nothing).group("g");
    let refused = [
        (subscribe().concurrency(0).register(), "concurrency"),
        (subscribe().concurrency(1_000_000).register(), "65535"),
        (
            subscribe().max_in_flight(0).register(),
            "messages in flight",
        ),
        (
            subscribe().max_in_flight_bytes(0).register(),
            "bytes in flight",
        ),
        (
            subscribe().handler_timeout(Duration::ZERO).register(),
            "timeout",
        ),
        (
            subscribe()
                .reconnect(Backoff::constant(Duration::ZERO))
                .register(),
            "hot loop",
        ),
        (
            subscribe()
                .on_failure(FailurePolicy::default().max_attempts(Some(0)))
                .register(),
            "0 attempts",
        ),
        (
            bus.subscribe_batch("a", 0, |batch: Batch| async move { batch.ack_all() })
                .group("g")
                .register(),
            "batch size",
        ),
    ];
    for (result, hint) in refused {
        says(&result.unwrap_err(), ErrorKind::InvalidConfig, &[hint]);
    }
    let error = subscribe()
        .ordering(Ordering::Stream)
        .register()
        .unwrap_err();
    says(&error, ErrorKind::Unsupported, &["Ordering::PerKey"]);
}

#[tokio::test]
async fn bad_names_are_refused() {
    let bus = Bus::builder(Chanbuf::new())
        .event::<UserCreated>()
        .build()
        .unwrap();
    let error = bus.subscribe_stream("a b", nothing).register().unwrap_err();
    says(&error, ErrorKind::InvalidMessage, &["stream name", "' '"]);
    let error = bus
        .subscribe_stream("a", nothing)
        .group("g*")
        .register()
        .unwrap_err();
    says(&error, ErrorKind::InvalidMessage, &["group name", "'*'"]);
    let error = bus.publish_to("", &user("1")).await.unwrap_err();
    says(&error, ErrorKind::InvalidMessage, &["empty"]);
}

#[tokio::test]
async fn unknown_arguments_are_listed() {
    let bus = Bus::new(Chanbuf::new());
    let subscribe = bus.subscribe_stream("a", nothing).group("g");
    subscribe
        .argument("kafka-group-id", "x")
        .register()
        .unwrap();
    let error = bus.start().await.unwrap_err();
    says(
        &error,
        ErrorKind::InvalidConfig,
        &["kafka-group-id", "lease_ms"],
    );
}

#[tokio::test]
async fn unknown_schemes_and_parameters_are_listed() {
    let drivers = DriverRegistry::new().with::<Chanbuf>();
    assert!(drivers.open("chanbuf:?capacity=5").await.is_ok());
    let error = drivers.open("kafka://host:9092").await.unwrap_err();
    says(&error, ErrorKind::InvalidConfig, &["kafka", "chanbuf"]);
    let error = drivers.open("chanbuf:?size=5").await.unwrap_err();
    says(&error, ErrorKind::InvalidConfig, &["size", "capacity"]);
    let error = drivers.open("chanbuf:?full=perhaps").await.unwrap_err();
    says(
        &error,
        ErrorKind::InvalidConfig,
        &["perhaps", "wait or refuse"],
    );
    let error = drivers.open("chanbuf:?capacity=0").await.unwrap_err();
    says(&error, ErrorKind::InvalidConfig, &["capacity is 0"]);
}

#[tokio::test]
async fn after_shutdown_everything_says_so() {
    let bus = Bus::builder(Chanbuf::new())
        .event::<UserCreated>()
        .build()
        .unwrap();
    bus.subscribe_stream("user.created", nothing)
        .group("g")
        .register()
        .unwrap();
    bus.start().await.unwrap();
    bus.publish(&user("1")).await.unwrap();
    let publisher: Publisher = bus.publisher().clone();
    let first = bus.shutdown(Duration::from_secs(5)).await;
    let second = bus.shutdown(Duration::from_secs(5)).await;
    assert_eq!(first, second, "a second shutdown gives the same report");
    for error in [
        bus.publish(&user("2")).await.unwrap_err(),
        publisher
            .publish_after(&user("2"), Duration::from_secs(1))
            .await
            .unwrap_err(),
        bus.start().await.unwrap_err(),
        bus.subscribe_stream("a", nothing)
            .group("g")
            .register()
            .unwrap_err(),
    ] {
        says(&error, ErrorKind::Closed, &["shut down", "build a new one"]);
    }
}

#[tokio::test]
async fn shutting_down_twice_at_once_waits_for_the_first() {
    let bus = Bus::new(Chanbuf::new());
    bus.subscribe_stream("a", nothing)
        .group("g")
        .register()
        .unwrap();
    bus.start().await.unwrap();
    let deadline = Duration::from_secs(5);
    let (a, b) = tokio::join!(bus.shutdown(deadline), bus.shutdown(deadline));
    assert_eq!(a, b);
}

/// Undecodable data and unknown content types take the error path, and the stream goes on.
#[tokio::test(start_paused = true)]
async fn undecodable_data_goes_to_the_dead_letters_with_the_reason() {
    let test = TestBus::new().unwrap();
    let bus = test.bus();
    let (sender, mut handled) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_event(move |event: UserCreated, _| {
        let sender = sender.clone();
        async move { sender.send(event.user_id).unwrap() }
    })
    .group("g")
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let raw = |content_type: &'static str, data: &'static str| {
        Message::builder("user.created")
            .content_type(content_type)
            .data(data)
            .build()
            .unwrap()
    };
    let batch = [
        raw("application/json", "{not json"),
        raw("text/csv", "a,b"),
        raw("application/json", r#"{"user_id":"3"}"#),
    ];
    bus.publisher().write(&batch).await.unwrap();
    test.wait_drained().await;
    assert_eq!(handled.recv().await.unwrap(), "3");
    let dead = test.published_messages("user.created.dlq").unwrap();
    let reasons: Vec<_> = dead
        .iter()
        .map(|m| m.headers().get_str(dead_letter::headers::REASON).unwrap())
        .collect();
    assert!(reasons[0].contains("as JSON"), "{reasons:?}");
    assert!(
        reasons[1].contains("`text/csv`") && reasons[1].contains("application/json"),
        "{reasons:?}"
    );
    assert_eq!(
        dead[0].headers().get_str(dead_letter::headers::ATTEMPTS),
        Some("1")
    );
    assert_eq!(dead.len(), 2);
}

#[tokio::test]
async fn what_a_driver_cannot_do_is_unsupported() {
    let publisher =
        Publisher::builder(std::sync::Arc::new(streams_core::NoopWriter::new())).build();
    publisher.registry().register::<UserCreated>().unwrap();
    let error = publisher
        .publish_after(&user("1"), Duration::from_secs(1))
        .await
        .unwrap_err();
    says(&error, ErrorKind::Unsupported, &["cannot schedule"]);
    let id = streams_core::uuid_v7().unwrap();
    let error = publisher.cancel::<UserCreated>(&id).await.unwrap_err();
    says(&error, ErrorKind::Unsupported, &["cannot cancel"]);
    let error = publisher
        .publish_after(&user("1"), Duration::MAX)
        .await
        .unwrap_err();
    says(&error, ErrorKind::InvalidConfig, &["shorter"]);
}

#[tokio::test]
async fn a_start_position_that_is_gone_is_said() {
    let bus = Bus::new(Chanbuf::new());
    let subscribe = || bus.subscribe_stream("a", nothing).group("g");
    subscribe()
        .start_from(StartFrom::Position("7".into()))
        .register()
        .unwrap();
    let error = bus.start().await.unwrap_err();
    says(
        &error,
        ErrorKind::NotFound,
        &["not kept", "position=7", "0 to 0"],
    );
    subscribe()
        .start_from(StartFrom::Position("x".into()))
        .register()
        .unwrap();
    let error = bus.start().await.unwrap_err();
    says(&error, ErrorKind::InvalidConfig, &["whole number"]);
}
