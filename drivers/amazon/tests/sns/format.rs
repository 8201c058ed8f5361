//! What is published, and what services in other languages see and send.

use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::Value;
use streams_core::{
    ContentType, ErrorKind, Headers, Key, Message, MessageId, ReadOptions, from_unix_millis,
};

use crate::failing::Setup as _;
use crate::messages::{Reading, stream};
use crate::support::{Setup, arn, client};

const PUBLISH: &str = "PublishBatch";

fn field<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    request[format!("PublishBatchRequestEntries.member.1.{name}")].as_str()
}

/// The attributes of the first message of a batch.
fn attributes(request: &Value) -> Vec<(&str, &str)> {
    let of = |number, part| field(request, &format!("MessageAttributes.entry.{number}.{part}"));
    let all = (1..=11).filter_map(|n| Some((of(n, "Name")?, of(n, "Value.StringValue")?)));
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn a_message_is_what_the_go_services_publish() {
    let setup = Setup::new("format").await;
    let message = Message::builder(&setup.stream)
        .id(MessageId::new("id-1").unwrap())
        .key("user-17")
        .header("tenant", "acme")
        .content_type(ContentType::JSON)
        .time(from_unix_millis(1_700_000_000_123))
        .data("{\"user\":17}")
        .build()
        .unwrap();
    setup.write(std::slice::from_ref(&message)).await;
    let request = setup.proxy.requests(PUBLISH).remove(0);
    assert_eq!(request["TopicArn"], arn(&setup.stream));
    assert_eq!(field(&request, "Subject"), Some("user-17"));
    assert_eq!(field(&request, "MessageStructure"), Some("json"));
    let body: Value = serde_json::from_str(field(&request, "Message").unwrap()).unwrap();
    for protocol in ["default", "email", "email-json", "http", "https", "sqs"] {
        assert_eq!(body[protocol], "{\"user\":17}");
    }
    assert_eq!(
        attributes(&request),
        [
            ("streams-content-type", "application/json"),
            ("streams-message-id", "id-1"),
            ("streams-message-time", "2023-11-14T22:13:20.123Z"),
            ("streams-stream-key", "user-17"),
            ("streams-stream-name", setup.stream.as_str()),
            ("tenant", "acme"),
        ]
    );
    let options = ReadOptions::new(&setup.stream).unwrap();
    assert_eq!(
        Reading::of(&setup.sns, &options).await.message().await,
        message
    );
}

#[tokio::test]
async fn what_has_no_place_arrives_all_the_same() {
    for setup in [Setup::new("odd").await, Setup::fifo("odd").await] {
        let plain = Message::builder(&setup.stream);
        let mut many = Message::builder(&setup.stream).key("").data("x");
        for number in 0..40 {
            many = many.header(format!("header {number}"), number.to_string());
        }
        let messages = [
            plain.key("a\nb").data(vec![0, 0xff]).build().unwrap(),
            many.header("AWS.trace", "1").build().unwrap(),
            // Too large to stand under each protocol.
            Message::builder(&setup.stream)
                .data("\"\\<&\u{1f980}".repeat(500))
                .build()
                .unwrap(),
            Message::builder(&setup.stream)
                .data(vec![0xff; 180 << 10])
                .build()
                .unwrap(),
        ];
        let options = ReadOptions::new(&setup.stream).unwrap();
        let mut reading = Reading::of(&setup.sns, &options).await;
        for message in messages {
            setup.write(std::slice::from_ref(&message)).await;
            assert_eq!(reading.message().await, message);
        }
        let structures: Vec<_> = setup
            .proxy
            .requests(PUBLISH)
            .iter()
            .map(|request| field(request, "MessageStructure").is_some())
            .collect();
        assert_eq!(structures, [true, true, false, false]);
        let with_subject = |request: &Value| field(request, "Subject").is_some();
        assert!(!setup.proxy.requests(PUBLISH).iter().any(with_subject));
    }
}

#[tokio::test]
async fn headers_that_filters_look_at_are_attributes_of_their_own() {
    let only = |driver: streams_amazon::SnsBuilder| driver.filter_headers(["tenant"]);
    let setup = Setup::with(stream("filter"), only).await;
    let message = |values: &[&str]| {
        let mut headers = Headers::new();
        for number in 0..12 {
            headers.append(format!("header-{number}"), "x");
        }
        for value in values {
            headers.append("tenant", *value);
        }
        let message = Message::builder(&setup.stream).key("k").headers(headers);
        message.data(vec![0xff]).build().unwrap()
    };
    let good = message(&["acme"]);
    setup.write(std::slice::from_ref(&good)).await;
    let request = setup.proxy.requests(PUBLISH).remove(0);
    let attributes = attributes(&request);
    assert!(attributes.contains(&("tenant", "acme")), "{attributes:?}");
    assert_eq!(attributes.len(), 10, "what a queue takes");
    let options = ReadOptions::new(&setup.stream).unwrap();
    assert_eq!(
        Reading::of(&setup.sns, &options).await.message().await,
        good
    );

    let writer = streams_core::Driver::writer(&setup.sns);
    for bad in [message(&["acme", "other"]), message(&[""])] {
        let error = writer.write(&[bad]).await.unwrap_err();
        let error = &error.failures()[0].1;
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        assert_eq!(error.failed_driver(), Some("sns"));
    }
}

#[tokio::test]
async fn what_another_client_publishes_is_read_raw_and_in_an_envelope() {
    let setup = Setup::new("theirs").await;
    let client = client().await;
    let value = |text: &str| {
        let value = MessageAttributeValue::builder().data_type("String");
        value.string_value(text).build().unwrap()
    };
    let publish = || {
        client
            .publish()
            .topic_arn(arn(&setup.stream))
            .message("hello")
            .message_attributes("streams-message-id", value("go-1"))
            .message_attributes("streams-stream-key", value("user-17"))
            .message_attributes("streams-message-time", value("2026-01-02T03:04:05+01:00"))
            .message_attributes("tenant", value("acme"))
    };
    let options = ReadOptions::new(&setup.stream).unwrap();
    let mut reading = Reading::of(&setup.sns, &options).await;
    publish().send().await.unwrap();
    let raw = reading.message().await;
    // Now in envelopes.
    let listed = client.list_subscriptions_by_topic();
    let listed = listed.topic_arn(arn(&setup.stream)).send().await.unwrap();
    let own = &listed.subscriptions()[0];
    let client = &client;
    client
        .unsubscribe()
        .subscription_arn(own.subscription_arn().unwrap())
        .send()
        .await
        .unwrap();
    client
        .subscribe()
        .topic_arn(arn(&setup.stream))
        .protocol("sqs")
        .endpoint(own.endpoint().unwrap())
        .send()
        .await
        .unwrap();
    publish().subject("user-17").send().await.unwrap();
    let enveloped = reading.message().await;
    for message in [&raw, &enveloped] {
        assert_eq!(message.id().as_str(), "go-1");
        assert_eq!(message.key(), Some(&Key::from("user-17")));
        assert_eq!(message.headers().get_str("tenant"), Some("acme"));
        assert_eq!(message.time(), from_unix_millis(1_767_319_445_000));
        assert_eq!(message.data(), "hello");
    }
}
