//! Events that a group does not want: by name and topic, as with pulse.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{Bus, Context, ErrorKind, Message};
use streams_middleware::Filter;
use streams_redis::{EVENT_NAME, TOPIC};

use crate::support::{GROUP, Test, nothing_comes, pending, take, text, until};

/// Writes events of three names and two topics, and one that is neither an event's nor has a topic.
async fn write(test: &Test) {
    let mut batch = vec![test.message("plain")];
    for name in ["OrderPaid", "OrderShipped", "UserJoined"] {
        for topic in ["eu", "us"] {
            let event = test.message(&format!("{name} {topic}")).to_builder();
            let event = event.header(EVENT_NAME, name).header(TOPIC, topic);
            batch.push(event.build().unwrap());
        }
    }
    test.write(&batch).await;
}

/// What comes through, in order, with all else acknowledged.
async fn comes(filter: Filter) -> Vec<String> {
    let test = Test::shared().await;
    write(&test).await;
    let bus = Bus::builder(test.driver()).build().unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let into = seen.clone();
    bus.subscribe_stream(&test.stream, move |message: Message, _: Context| {
        into.lock().unwrap().push(text(&message));
        async {}
    })
    .group(GROUP)
    .layer(filter)
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let info = redis::Cmd::new()
        .arg("XINFO")
        .arg("GROUPS")
        .arg(test.key())
        .clone();
    until("all are read and none is pending", async || {
        type Group = std::collections::HashMap<String, redis::Value>;
        let groups: Vec<Group> = test.ask(&info).await;
        groups[0]["lag"] == redis::Value::Int(0) && pending(&test).await == 0
    })
    .await;
    let report = bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(report.acknowledged(), 7);
    // None comes again to the group, all come to another.
    nothing_comes(&mut *test.member().await).await;
    let another = test.options().group("another").unwrap();
    assert_eq!(take(&mut *test.read(&another).await, 7).await.len(), 7);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exact_event_name_or_topic() {
    let paid = comes(Filter::header(EVENT_NAME, "OrderPaid")).await;
    assert_eq!(paid, ["OrderPaid eu", "OrderPaid us"]);
    let us = comes(Filter::header(TOPIC, "us")).await;
    assert_eq!(us, ["OrderPaid us", "OrderShipped us", "UserJoined us"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_of_names_or_topics_and_a_bad_one_is_refused() {
    let orders = Filter::header_matches(EVENT_NAME, "^Order(Paid|Shipped)$").unwrap();
    assert_eq!(comes(orders).await.len(), 4);
    let topics = Filter::header_matches(TOPIC, "^e.$").unwrap();
    assert_eq!(comes(topics).await.len(), 3);
    let refused = Filter::header_matches(TOPIC, "e(").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_predicate_of_ones_own() {
    let plain = Filter::new(|message| message.headers().get_str(TOPIC).is_none());
    assert_eq!(comes(plain).await, ["plain"]);
}
