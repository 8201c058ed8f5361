//! The chain from a topic to queues.

use std::collections::BTreeMap;

use serde_json::Value;
use streams_amazon::{NewQueues, NewSubscription, SnsOptions};
use streams_core::{Bus, Driver, ErrorKind, Message, ReadOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::failing::Setup as _;
use crate::messages::{PATIENCE, Reading, once, stream};
use crate::support::{Setup, arn, client, driver, moto, queues};

#[tokio::test]
async fn each_group_gets_every_message_by_settings_alone() {
    let stream = stream("orders.placed");
    let sns = driver(&moto().await).await.build().await.unwrap();
    let bus = Bus::new(sns.clone());
    let (tell, mut told) = mpsc::unbounded_channel();
    for group in ["mailer", "audit"] {
        let tell = tell.clone();
        bus.subscribe_stream(&stream, move |message: Message, _| {
            let _ = tell.send((group, message.id().to_string()));
            async {}
        })
        .group(group)
        .register()
        .unwrap();
    }
    bus.start().await.unwrap();
    let message = Message::builder(&stream).data("x").build().unwrap();
    bus.publisher()
        .write(std::slice::from_ref(&message))
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(timeout(PATIENCE, told.recv()).await.unwrap().unwrap());
    }
    seen.sort_unstable();
    let id = message.id().to_string();
    assert_eq!(seen, [("audit", id.clone()), ("mailer", id)]);
    bus.shutdown(PATIENCE).await;

    for group in ["mailer", "audit"] {
        assert!(sns.delete_queue(&stream, Some(group)).await.unwrap());
        assert!(!sns.delete_queue(&stream, Some(group)).await.unwrap());
    }
    sns.delete_topic(&stream).await.unwrap();
    sns.delete_topic(&stream).await.unwrap();
}

#[tokio::test]
async fn the_chain_is_raw_with_a_policy_dead_letters_and_a_filter() {
    for end in ["", ".fifo"] {
        let stream = stream("chain").as_str().to_owned() + end;
        let stream = streams_core::StreamName::new(stream).unwrap();
        let sns = driver(&moto().await).await.build().await.unwrap();
        let settings = NewSubscription::new()
            .group("mailer")
            .filter_policy(r#"{"tenant": ["acme"]}"#)
            .queues(NewQueues::new().max_receives(7));
        sns.create_subscription(&stream, &settings).await.unwrap();
        // Once more changes nothing.
        sns.create_subscription(&stream, &settings).await.unwrap();

        let client = client().await;
        let listed = client.list_subscriptions_by_topic();
        let listed = listed.topic_arn(arn(&stream)).send().await.unwrap();
        let [subscription] = listed.subscriptions() else {
            panic!("{listed:?}");
        };
        let plain = stream.as_str().trim_end_matches(".fifo");
        let queue = format!("arn:aws:sqs:eu-west-1:123456789012:{plain}_mailer{end}");
        assert_eq!(subscription.endpoint(), Some(&*queue));
        let attributes = client.get_subscription_attributes();
        let attributes = attributes.subscription_arn(subscription.subscription_arn().unwrap());
        let attributes = attributes.send().await.unwrap().attributes.unwrap();
        assert_eq!(attributes["RawMessageDelivery"], "true");
        let filter: Value = serde_json::from_str(&attributes["FilterPolicy"]).unwrap();
        assert_eq!(filter["tenant"][0], "acme");

        let own = queue_attributes(&format!("{plain}_mailer{end}")).await;
        let policy: Value = serde_json::from_str(&own["Policy"]).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 1);
        assert_eq!(
            statements[0]["Condition"]["ArnEquals"]["aws:SourceArn"],
            arn(&stream)
        );
        let redrive: Value = serde_json::from_str(&own["RedrivePolicy"]).unwrap();
        let dead = redrive["deadLetterTargetArn"].as_str().unwrap();
        assert!(
            dead.ends_with(&format!("{plain}_mailer-dlq{end}")),
            "{dead}"
        );
    }
}

async fn queue_attributes(queue: &str) -> BTreeMap<String, String> {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest())
        .region(aws_sdk_sqs::config::Region::new("eu-west-1"))
        .endpoint_url(moto().await)
        .credentials_provider(aws_sdk_sqs::config::Credentials::new(
            "local", "local", None, None, "tests",
        ));
    let client = aws_sdk_sqs::Client::from_conf(config.build());
    let url = client.get_queue_url().queue_name(queue).send();
    let url = url.await.unwrap().queue_url.unwrap();
    let attributes = client.get_queue_attributes().queue_url(url);
    let all = aws_sdk_sqs::types::QueueAttributeName::All;
    let attributes = attributes.attribute_names(all).send().await.unwrap();
    let attributes = attributes.attributes.unwrap().into_iter();
    attributes
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}

#[tokio::test]
async fn a_filter_lets_through_what_it_names() {
    let stream = stream("filtered");
    let filtering = driver(&moto().await).await.filter_headers(["tenant"]);
    let sns = filtering.build().await.unwrap();
    let mut typed = ReadOptions::new(&stream).unwrap().group("typed").unwrap();
    let policy = r#"{"tenant": ["acme"]}"#;
    typed.driver.insert(SnsOptions::new().filter_policy(policy));
    let mut named = ReadOptions::new(&stream).unwrap().group("named").unwrap();
    named
        .driver
        .set("filter_policy", r#"{"tenant": [{"anything-but": "acme"}]}"#);
    named.driver.set("visibility_timeout_seconds", "3");
    let all = ReadOptions::new(&stream).unwrap();
    for options in [&typed, &named, &all] {
        Reading::of(&sns, options).await.0.close().await.unwrap();
    }
    let message = |number: usize| {
        let tenant = ["acme", "other"][number % 2];
        let message = Message::builder(&stream).data(number.to_string());
        message.header("tenant", tenant).build().unwrap()
    };
    let messages: Vec<_> = (0..6).map(message).collect();
    sns.writer().write(&messages).await.unwrap();
    assert_eq!(
        Reading::of(&sns, &typed).await.drain().await,
        once([0, 2, 4])
    );
    assert_eq!(
        Reading::of(&sns, &named).await.drain().await,
        once([1, 3, 5])
    );
    assert_eq!(Reading::of(&sns, &all).await.drain().await, once(0..6));
}

#[tokio::test]
async fn what_cannot_be_read_is_said() {
    let setup = Setup::new("refused").await;
    let kind = async |sns: &streams_amazon::Sns, options: &ReadOptions| {
        let error = sns.reader().subscribe(options).await.err().unwrap();
        assert_eq!(error.failed_driver(), Some("sns"), "{error}");
        error.kind()
    };
    let plain = ReadOptions::new(&setup.stream).unwrap();
    let mut filter = plain.clone();
    filter.driver.set("filter_policy", "[]");
    assert_eq!(kind(&setup.sns, &filter).await, ErrorKind::InvalidConfig);
    let long = plain.clone().group("g".repeat(80)).unwrap();
    assert_eq!(kind(&setup.sns, &long).await, ErrorKind::InvalidConfig);
    let once = plain.clone().exactly_once(true);
    assert_eq!(kind(&setup.sns, &once).await, ErrorKind::Unsupported);
    let mut unknown = plain.clone();
    unknown.driver.set("no_such", "1");
    assert_eq!(kind(&setup.sns, &unknown).await, ErrorKind::InvalidConfig);

    // Where no queues are created, there must be one, and a filter would not be kept to.
    let reading = driver(&moto().await).await.queues(queues().await);
    let reading = reading.build().await.unwrap();
    let missing = plain.clone().group("missing").unwrap();
    assert_eq!(kind(&reading, &missing).await, ErrorKind::NotFound);
    let mut filter = plain.clone();
    filter.driver.set("filter_policy", "{}");
    assert_eq!(kind(&reading, &filter).await, ErrorKind::InvalidConfig);
    Reading::of(&reading, &plain).await.0.close().await.unwrap();
}

#[tokio::test]
async fn another_filter_than_that_of_the_subscription_is_a_conflict() {
    let setup = Setup::new("conflict").await;
    // As AWS says it; moto changes the filter.
    let exists = crate::proxy::Fault::RefuseWith(
        400,
        "InvalidParameter",
        "Invalid parameter: Attributes Reason: Subscription already exists with different attributes",
    );
    setup.proxy.fail("Subscribe", [exists.clone(), exists]);
    let with = NewSubscription::new().filter_policy("{}");
    let created = setup.sns.create_subscription(&setup.stream, &with).await;
    assert_eq!(created.unwrap_err().kind(), ErrorKind::Conflict);
    // Without one it is used as it is.
    let without = NewSubscription::new();
    setup
        .sns
        .create_subscription(&setup.stream, &without)
        .await
        .unwrap();
}
