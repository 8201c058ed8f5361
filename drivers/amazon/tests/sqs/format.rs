//! What services in other languages see and send.

use std::time::Duration;

use aws_sdk_sqs::types::MessageAttributeValue;
use streams_core::{ContentType, Delivery, Key, Message, MessageId, from_unix_millis};

use crate::failing::Setup as _;
use crate::support::Setup;

#[tokio::test]
async fn another_client_sees_text_and_attributes() {
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
    setup.write(&[message]).await;
    let receive = setup.client.receive_message().queue_url(&setup.url);
    let receive = receive.message_attribute_names("All").wait_time_seconds(5);
    let raw = receive.send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(raw.body.as_deref(), Some("{\"user\":17}"));
    let attributes = raw.message_attributes.unwrap();
    let mut seen: Vec<_> = attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.string_value().unwrap()))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("streams-content-type", "application/json"),
            ("streams-message-id", "id-1"),
            ("streams-message-time", "1700000000123"),
            ("streams-stream-key", "user-17"),
            ("streams-stream-name", setup.stream.as_str()),
            ("tenant", "acme"),
        ]
    );
}

#[tokio::test]
async fn what_another_client_sends_is_read_with_its_facts() {
    let setup = Setup::new("theirs").await;
    let value = |text: &str| {
        let value = MessageAttributeValue::builder().data_type("String");
        value.string_value(text).build().unwrap()
    };
    let send = setup
        .client
        .send_message()
        .queue_url(&setup.url)
        .message_body("hello");
    let sent = send
        .message_attributes("streams-message-id", value("go-1"))
        .message_attributes("streams-stream-key", value("user-17"))
        .message_attributes("tenant", value("acme"))
        .send()
        .await
        .unwrap();
    let mut reading = setup.subscribe().await;
    let delivery: Delivery = reading.take(1).await.remove(0);
    let message = &delivery.message;
    assert_eq!(message.id().as_str(), "go-1");
    assert_eq!(message.key(), Some(&Key::from("user-17")));
    assert_eq!(message.headers().get_str("tenant"), Some("acme"));
    assert_eq!(message.stream(), &setup.stream);
    let facts = delivery.metadata.clone().unwrap();
    let fact = |name| facts.get(name, delivery.token.id());
    assert_eq!(fact("sqs-message-id"), sent.message_id);
    assert_eq!(fact("sqs-message-body-md5"), sent.md5_of_message_body);
    assert!(fact("sqs-message-receipt-handle").is_some_and(|handle| !handle.is_empty()));
    assert_eq!(fact("sqs-no-such"), None);
    for name in facts.names() {
        assert!(message.headers().get(name).is_none());
    }
    reading.settle(vec![delivery.ack()]).await;
    assert!(reading.next_within(Duration::from_secs(3)).await.is_none());
}
