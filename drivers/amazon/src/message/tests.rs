use bytes::Bytes;
use streams_core::{ContentType, ErrorKind, Key, MessageId, StreamName, from_unix_millis};

use super::decode::Attributes;
use super::*;

fn stream() -> StreamName {
    StreamName::new("orders").unwrap()
}

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    let pair =
        |(name, value): &(&str, &str)| ((*name).to_owned(), Bytes::from((*value).to_owned()));
    pairs.iter().map(pair).collect()
}

#[test]
fn a_plain_message_is_what_the_go_services_write() {
    let message = Message::builder("user.created")
        .id(MessageId::new("id-1").unwrap())
        .key("user-17")
        .header("tenant", "acme")
        .header("trace", "abc")
        .content_type(ContentType::JSON)
        .time(from_unix_millis(1_700_000_000_123))
        .data("{}")
        .build()
        .unwrap();
    let encoded = encode(&message, &Wire::SQS).unwrap();
    assert_eq!(encoded.body, "{}");
    let pairs: Vec<_> = encoded
        .attributes
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(
        pairs,
        [
            ("streams-message-id", "id-1"),
            ("streams-stream-name", "user.created"),
            ("streams-stream-key", "user-17"),
            ("streams-content-type", "application/json"),
            ("streams-message-time", "1700000000123"),
            ("tenant", "acme"),
            ("trace", "abc"),
        ]
    );
}

#[test]
fn a_size_counts_names_types_and_values() {
    let encoded = Encoded {
        body: "12345".to_owned(),
        attributes: vec![("name".to_owned(), "value".to_owned())],
        subject: None,
        is_structured: false,
    };
    assert_eq!(encoded.size(), 5 + 4 + 6 + 5);
}

#[test]
fn an_empty_key_is_no_attribute_and_comes_back() {
    let message = Message::builder("orders")
        .key("")
        .data("x")
        .build()
        .unwrap();
    let encoded = encode(&message, &Wire::SQS).unwrap();
    assert!(
        encoded
            .attributes
            .iter()
            .all(|(name, value)| name != STREAM_KEY && !value.is_empty())
    );
    let attributes = encoded
        .attributes
        .into_iter()
        .map(|(n, v)| (n, v.into()))
        .collect();
    let received = Received {
        id: "a".to_owned(),
        body: encoded.body,
        attributes,
        ..Received::default()
    };
    assert_eq!(
        decode(&stream(), received).unwrap().key(),
        Some(&Key::from(""))
    );
}

#[test]
fn facts_of_the_reader_and_empty_data_are_refused() {
    let message = Message::builder("a")
        .header("sqs-message-id", "x")
        .data("x")
        .build()
        .unwrap();
    assert_eq!(
        encode(&message, &Wire::SQS).unwrap_err().kind(),
        ErrorKind::InvalidMessage
    );
    let message = Message::builder("a").build_received().unwrap();
    assert_eq!(
        encode(&message, &Wire::SQS).unwrap_err().kind(),
        ErrorKind::EmptyMessage
    );
}

#[test]
fn another_programs_message_has_the_id_and_time_of_sqs_and_its_group_as_key() {
    let received = Received {
        id: "5fea7756".to_owned(),
        body: "hello".to_owned(),
        attributes: attributes(&[("b", "2"), ("a", "1")]),
        group: Some("tenant-1".to_owned()),
        sent: Some(from_unix_millis(17)),
    };
    let message = decode(&stream(), received).unwrap();
    assert_eq!(message.id().as_str(), "5fea7756");
    assert_eq!(message.key(), Some(&Key::from("tenant-1")));
    assert_eq!(message.time(), from_unix_millis(17));
    let headers: Vec<_> = message.headers().iter().collect();
    assert_eq!(headers, [("a", &b"1"[..]), ("b", &b"2"[..])]);
}

#[test]
fn a_message_of_ours_without_a_key_gets_none_of_its_group() {
    let received = Received {
        id: "x".to_owned(),
        body: "hello".to_owned(),
        attributes: attributes(&[(MESSAGE_ID, "id-1")]),
        group: Some("id-1".to_owned()),
        sent: None,
    };
    assert_eq!(decode(&stream(), received).unwrap().key(), None);
}

#[test]
fn an_envelope_of_sns_is_opened() {
    let body = r#"{"Type":"Notification","MessageId":"sns-1","TopicArn":"arn:aws:sns:eu-west-1:1:orders",
        "Subject":"user-17","Message":"hello","Timestamp":"2026-01-02T03:04:05.678Z",
        "MessageAttributes":{"streams-message-id":{"Type":"String","Value":"id-1"},
        "streams-stream-key":{"Type":"String","Value":"user-17"},
        "streams-message-time":{"Type":"String","Value":"2026-01-02T03:04:05Z"},
        "raw":{"Type":"Binary","Value":"AP8="}}}"#;
    let received = Received {
        id: "sqs-1".to_owned(),
        body: body.to_owned(),
        ..Received::default()
    };
    let message = decode(&stream(), received).unwrap();
    assert_eq!(message.id().as_str(), "id-1");
    assert_eq!(message.key(), Some(&Key::from("user-17")));
    assert_eq!(message.data(), "hello");
    assert_eq!(unix_millis(message.time()), 1_767_323_045_000);
    assert_eq!(message.headers().get("raw"), Some(&[0, 0xff][..]));

    // Of another program: its id and time are those of SNS.
    let body = r#"{"Type":"Notification","MessageId":"sns-1","TopicArn":"arn","Message":"hello",
        "Timestamp":"2026-01-02T03:04:05.678Z"}"#;
    let received = Received {
        id: "sqs-1".to_owned(),
        body: body.to_owned(),
        ..Received::default()
    };
    let message = decode(&stream(), received).unwrap();
    assert_eq!(message.id().as_str(), "sns-1");
    assert_eq!(unix_millis(message.time()), 1_767_323_045_678);
}

#[test]
fn json_that_is_no_envelope_stays_as_it_is() {
    for body in [
        r#"{"TopicArn":"x"}"#,
        r#"{"Type":"Notification","TopicArn":"x"}"#,
        "{TopicArn",
    ] {
        let received = Received {
            id: "a".to_owned(),
            body: body.to_owned(),
            ..Received::default()
        };
        assert_eq!(decode(&stream(), received).unwrap().data(), body);
    }
}

#[test]
fn the_time_a_message_is_due_is_read() {
    assert_eq!(due(&attributes(&[(DUE, "17")])), Some(from_unix_millis(17)));
    assert_eq!(due(&attributes(&[(DUE, "soon")])), None);
    assert_eq!(due(&Attributes::new()), None);
}
