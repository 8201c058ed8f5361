//! Exactly once, with a broker that dies.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Bus, HandlerError};
use streams_kafka::NewTopics;

use crate::support::{
    Arrived, committed, on, own_broker, read_committed, settings, shut_down, topic, write,
};

const COUNT: usize = 2000;
const KEYS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn each_input_has_one_output_though_the_broker_is_killed() {
    let broker = own_broker().await;
    let kafka = settings(&broker.address())
        // What a transaction that was cut off holds up, it holds up no longer than this.
        .transaction_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let input = topic(&kafka, "input", &NewTopics::new(3)).await;
    let output = topic(&kafka, "output", &NewTopics::new(3)).await;
    write(&kafka, &input, COUNT, KEYS).await;
    let bus = Bus::new(kafka.clone());
    let arrived = Arrived::default();
    let (handler, to) = (arrived.clone(), Arc::new(output.clone()));
    bus.subscribe_stream(&input, move |message, context| {
        let (arrived, to) = (handler.clone(), to.clone());
        async move {
            let made = message.to_builder().stream(&*to).build()?;
            context.publisher().write(&[made]).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
            arrived.add(&message);
            Ok::<_, HandlerError>(())
        }
    })
    .group(input.as_str())
    .concurrency(4)
    .max_in_flight(64)
    .exactly_once()
    .commit_interval(Duration::from_millis(20))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    arrived.wait(COUNT / 2).await;
    on(&broker, |broker| {
        broker.kill();
        broker.restart().unwrap();
        broker.wait_ready().unwrap();
    })
    .await;
    committed(&kafka, input.as_str(), &input, COUNT).await;
    shut_down(&bus).await;

    let outputs = read_committed(&broker.address(), &output).await;
    let mut last = HashMap::new();
    for (key, number) in &outputs {
        if let Some(before) = last.insert(key, number) {
            assert!(before < number, "{key}: {number} after {before}");
        }
    }
    let mut numbers: Vec<_> = outputs.into_iter().map(|(_, number)| number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
}
