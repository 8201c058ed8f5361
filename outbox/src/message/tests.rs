use std::time::{Duration, SystemTime};

use bytes::Bytes;
use streams_core::{ErrorKind, Headers, Message, MessageId};

use super::*;

/// What the Go library writes, by hand.
const GO: &[u8] = b"\x0a\x2b\
    \x0a\x011\
    \x12\x06orders\
    \x1a\x01k\
    \x22\x06\x0a\x01h\x12\x01v\
    \x2a\x0atext/plain\
    \x32\x01x\
    \x3a\x04\x08\x01\x10\x02";

/// The same message here.
fn message() -> Message {
    Message::builder("orders")
        .id(MessageId::new("1").unwrap())
        .key("k")
        .header("h", "v")
        .content_type("text/plain")
        .data("x")
        .time(SystemTime::UNIX_EPOCH + Duration::new(1, 2))
        .build()
        .unwrap()
}

fn there_and_back(message: &Message) -> Message {
    let messages = decode("test", "b", &encode(std::slice::from_ref(message))).unwrap();
    assert_eq!(messages.len(), 1);
    messages[0].clone()
}

#[test]
fn the_bytes_are_those_of_the_go_library() {
    assert_eq!(encode(&[message()]), GO);
    let read = decode("test", "b", GO).unwrap();
    assert_eq!(read, [message()]);
    assert_eq!(read[0].time(), message().time());
    assert_eq!(encode(&[]), b"");
    assert_eq!(decode("test", "b", b"").unwrap(), []);
}

#[test]
fn a_go_message_without_anything_is_read() {
    // Only a stream: the Go library leaves out what is empty.
    let rows = decode("test", "batch", b"\x0a\x03\x12\x01s\x0a\x03\x12\x01s").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].id().as_str(), "batch-1");
    assert_eq!(rows[1].key(), None);
    assert!(rows[1].data().is_empty());
}

#[test]
fn no_key_an_empty_key_and_a_binary_key_differ() {
    for key in [None, Some(Key::from("")), Some(Key::from(&[0xff, 0][..]))] {
        let message = message().to_builder().maybe_key(key.clone()).build();
        assert_eq!(there_and_back(&message.unwrap()).key(), key.as_ref());
    }
}

#[test]
fn headers_keep_order_repeats_and_bytes() {
    let mut headers = Headers::new();
    headers.append("b", "1");
    headers.append("a", &b"\xff\xfe"[..]);
    headers.append("b", "");
    headers.append("c", Bytes::new());
    let message = message().to_builder().headers(headers.clone()).build();
    assert_eq!(*there_and_back(&message.unwrap()).headers(), headers);
}

#[test]
fn go_reads_what_it_can_of_a_binary_header() {
    // The fields that the Go library knows of an entry are text, with ours beside them.
    let message = message().to_builder().headers(Headers::new());
    let message = message.header("h", &b"\xff"[..]).build().unwrap();
    let entry = b"\x22\x07\x0a\x01h\xc2\x3e\x01\xff";
    let bytes = encode(&[message]);
    assert!(
        bytes.windows(entry.len()).any(|part| part == entry),
        "{bytes:?}"
    );
}

#[test]
fn times_keep_their_nanoseconds() {
    let epoch = SystemTime::UNIX_EPOCH;
    let odd = Duration::new(1_700_000_000, 123_456_789);
    for time in [epoch, epoch + odd, epoch - odd, epoch - Duration::new(0, 1)] {
        let message = message().to_builder().time(time).build().unwrap();
        assert_eq!(there_and_back(&message).time(), time);
    }
}

#[test]
fn a_bad_message_is_named_by_its_place() {
    // The second has no stream.
    let error = decode("test", "b", b"\x0a\x03\x12\x01s\x0a\x02\x32\x00").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("index=1"), "{error}");
    // A time that cannot be.
    let error = decode(
        "test",
        "b",
        b"\x0a\x0a\x12\x01s\x3a\x05\x10\x80\x94\xeb\xdc",
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
}

#[test]
fn random_messages_survive() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let messages: Vec<_> = (0..random.usize(..4))
            .map(|_| random_message(&mut random))
            .collect();
        let read = decode("test", "b", &encode(&messages)).unwrap();
        assert_eq!(read, messages);
        for (read, written) in read.iter().zip(&messages) {
            assert_eq!(read.time(), written.time());
        }
    }
}

#[test]
fn arbitrary_bytes_are_read_or_refused() {
    let mut random = fastrand::Rng::with_seed(2);
    let (mut read, mut refused) = (0, 0);
    for round in 0..20_000 {
        // Pure noise is refused at its first bytes; damaged batches get further.
        let bytes = if round % 4 == 0 {
            random_bytes(&mut random, 64).to_vec()
        } else {
            let mut bytes = encode(&[random_message(&mut random), message()]);
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[place] = random.u8(..),
                    1 => bytes.truncate(place.max(1)),
                    _ => bytes.insert(place, random.u8(..)),
                }
            }
            bytes
        };
        match decode("test", "b", &bytes) {
            Ok(messages) => {
                read += 1;
                // What was read can be written, and is read the same.
                assert_eq!(decode("test", "b", &encode(&messages)).unwrap(), messages);
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Codec);
            }
        }
    }
    assert!(
        read > 1000 && refused > 1000,
        "{read} read, {refused} refused"
    );
}

fn random_message(random: &mut fastrand::Rng) -> Message {
    let mut builder = Message::builder(format!("s{}", random.u32(..)))
        .content_type(random_text(random))
        .data(random_bytes(random, 200))
        .time(random_time(random));
    if random.bool() {
        builder = builder.key(random_bytes(random, 40));
    }
    let header = |random: &mut fastrand::Rng| (random_text(random), random_bytes(random, 20));
    let headers: Headers = (0..random.usize(..5)).map(|_| header(random)).collect();
    builder.headers(headers).build_received().unwrap()
}

fn random_bytes(random: &mut fastrand::Rng, most: usize) -> Bytes {
    let length = random.usize(..most);
    if random.bool() {
        return random_text(random).into();
    }
    (0..length).map(|_| random.u8(..)).collect()
}

fn random_text(random: &mut fastrand::Rng) -> String {
    let length = random.usize(..8);
    (0..length).map(|_| random.char(..)).collect()
}

fn random_time(random: &mut fastrand::Rng) -> SystemTime {
    let distance = Duration::new(
        random.u64(..u64::from(u32::MAX) * 4),
        random.u32(..1_000_000_000),
    );
    if random.bool() {
        SystemTime::UNIX_EPOCH + distance
    } else {
        SystemTime::UNIX_EPOCH - distance
    }
}
