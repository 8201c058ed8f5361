//! Messages made up at random, each by its seed.

use bytes::Bytes;
use fastrand::Rng;
use streams_core::{ContentType, Key, MessageId, StreamName, from_unix_millis};

use super::decode::Attributes;
use super::*;

const SEEDS: u64 = 20_000;

fn bytes(rng: &mut Rng, longest: usize) -> Vec<u8> {
    let length = rng.usize(..=longest);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

fn text(rng: &mut Rng, longest: usize) -> String {
    let length = rng.usize(..=longest);
    std::iter::repeat_with(|| rng.char(..))
        .take(length)
        .collect()
}

fn one_of<'a>(rng: &mut Rng, these: &[&'a str]) -> &'a str {
    these[rng.usize(..these.len())]
}

fn bytes_or_text(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..4) {
        0 => bytes(rng, 30),
        1 => text(rng, 30).into_bytes(),
        2 => one_of(rng, &["", "a", "a\0b", "\u{ffff}", " ", "a\r\nb"]).into(),
        _ => one_of(rng, &["acme", "17", "application/json"]).into(),
    }
}

fn header_name(rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => format!("n{}", text(rng, 8)),
        1 => {
            let names = [
                "twice",
                "Twice",
                "a b",
                "AWS.x",
                ".",
                MESSAGE_ID,
                PACKED,
                DUE,
                BODY_ENCODING,
            ];
            one_of(rng, &names).to_owned()
        }
        _ => format!("header-{}", rng.u8(..20)),
    }
}

fn message(rng: &mut Rng, stream: &StreamName) -> Message {
    let mut data = bytes_or_text(rng);
    data.push(b'.');
    let mut message = Message::builder(stream).data(data);
    if rng.bool() {
        message = message.key(Key::from(&bytes_or_text(rng)[..]));
    }
    if let (true, Ok(id)) = (rng.bool(), MessageId::new(text(rng, 20))) {
        message = message.id(id);
    }
    if rng.bool() {
        let content_type = String::from_utf8_lossy(&bytes_or_text(rng)).into_owned();
        message = message.content_type(ContentType::new(content_type));
    }
    if rng.bool() {
        message = message.time(from_unix_millis(
            rng.i64(-4_000_000_000_000..4_000_000_000_000),
        ));
    }
    let count = rng.usize(..14);
    let header = |_| (header_name(rng), bytes_or_text(rng));
    message
        .headers((0..count).map(header).collect())
        .build()
        .unwrap()
}

fn received(encoded: Encoded) -> Received {
    let value = |(name, value): (String, String)| (name, Bytes::from(value));
    Received {
        id: "sqs-gave-this".to_owned(),
        body: encoded.body,
        attributes: encoded.attributes.into_iter().map(value).collect(),
        ..Received::default()
    }
}

#[test]
fn what_is_written_comes_back_as_it_was_and_sqs_takes_it() {
    let stream = StreamName::new("orders").unwrap();
    let (mut packed, mut plain) = (0, 0);
    for seed in 0..SEEDS {
        let message = message(&mut Rng::with_seed(seed), &stream);
        let encoded = encode(&message, &Wire::SQS).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(is_sendable(&encoded.body), "seed {seed}");
        assert!(encoded.attributes.len() < MOST_ATTRIBUTES, "seed {seed}");
        let mut names = std::collections::HashSet::new();
        for (name, value) in &encoded.attributes {
            assert!(is_attribute_name(name), "seed {seed}: {name:?}");
            assert!(is_sendable(value), "seed {seed}: {name} is {value:?}");
            assert!(names.insert(name), "seed {seed}: {name} stands twice");
        }
        match names.contains(&PACKED.to_owned()) {
            true => packed += 1,
            false => plain += 1,
        }
        let back = decode(&stream, received(encoded)).unwrap();
        assert_eq!(back, message, "seed {seed}");
    }
    assert!(
        packed > 1000 && plain > 1000,
        "{packed} packed, {plain} plain"
    );
}

#[test]
fn whatever_another_program_wrote_is_a_message() {
    let stream = StreamName::new("orders").unwrap();
    for seed in 0..SEEDS {
        let rng = &mut Rng::with_seed(seed);
        let mut attributes = Attributes::new();
        for _ in 0..rng.usize(..10) {
            let name = match rng.bool() {
                true => one_of(
                    rng,
                    &[
                        MESSAGE_ID,
                        STREAM_KEY,
                        MESSAGE_TIME,
                        CONTENT_TYPE,
                        BODY_ENCODING,
                        PACKED,
                        DUE,
                    ],
                )
                .to_owned(),
                false => header_name(rng),
            };
            let value = match rng.u8(..4) {
                0 => one_of(
                    rng,
                    &[
                        "base64",
                        "{}",
                        "{\"headers\":[[],1,\"a\",[\"x\"]],\"key\":\"?\"}",
                        "-1",
                        "[]",
                    ],
                )
                .into(),
                _ => bytes_or_text(rng),
            };
            attributes.insert(name, value.into());
        }
        let body = match rng.u8(..3) {
            0 => one_of(
                rng,
                &[
                    "{",
                    "{\"Type\":\"Notification\",\"TopicArn\":1}",
                    "{\"TopicArn\":\"x\"}",
                    "e30=",
                ],
            )
            .to_owned(),
            _ => format!("x{}", text(rng, 40)),
        };
        let received = Received {
            id: "theirs".to_owned(),
            body,
            attributes,
            ..Received::default()
        };
        let message = decode(&stream, received).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        // A dead letter of it can be written, unless it is empty.
        if !message.data().is_empty() {
            encode(&message, &Wire::SQS).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
}
