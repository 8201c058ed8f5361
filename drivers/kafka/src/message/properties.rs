//! Records and messages made up at random, each by its seed.

use fastrand::Rng;
use rdkafka::Timestamp;
use rdkafka::message::OwnedMessage;

use super::*;

const SEEDS: u64 = 20_000;

/// A header as it may come: of any program's making.
type Pair = (String, Option<Vec<u8>>);

fn bytes(rng: &mut Rng, longest: usize) -> Vec<u8> {
    let length = rng.usize(..=longest);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// Text of any characters but the one that ends a name.
fn text(rng: &mut Rng, longest: usize) -> String {
    let length = rng.usize(..=longest);
    std::iter::repeat_with(|| rng.char(..))
        .filter(|c| *c != '\0')
        .take(length)
        .collect()
}

/// One of these, cloned.
fn one_of<T: Clone>(rng: &mut Rng, these: &[T]) -> T {
    these[rng.usize(..these.len())].clone()
}

fn header_name(rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => text(rng, 12),
        1 => one_of(rng, &["twice", "Message_Id", " ", "a\nb", "\u{ffff}"]).to_owned(),
        2 => one_of(
            rng,
            &[
                MESSAGE_ID,
                CONTENT_TYPE,
                FACTS,
                "",
                "streams-kafka-hwm-offset",
            ],
        )
        .to_owned(),
        _ => one_of(rng, &["a", "b", "c"]).to_owned(),
    }
}

fn header_value(rng: &mut Rng) -> Option<Vec<u8>> {
    match rng.u8(..6) {
        0 => None,
        1 => Some(text(rng, 300).into_bytes()),
        2 => Some(vec![b'x'; rng.usize(250..260)]),
        3 => Some(one_of(rng, &["application/json", "", "id-1", "a\tb"]).into()),
        _ => Some(bytes(rng, 30)),
    }
}

fn time(rng: &mut Rng) -> Timestamp {
    let millis = match rng.u8(..3) {
        0 => one_of(rng, &[i64::MIN, i64::MAX, -2, -1, 0, 1]),
        1 => rng.i64(..),
        _ => rng.i64(1..4_000_000_000_000),
    };
    match rng.u8(..3) {
        0 => Timestamp::NotAvailable,
        1 => Timestamp::LogAppendTime(millis),
        _ => Timestamp::CreateTime(millis),
    }
}

fn maybe(rng: &mut Rng, longest: usize) -> Option<Vec<u8>> {
    rng.bool().then(|| bytes(rng, longest))
}

fn owned_headers(pairs: &[Pair]) -> OwnedHeaders {
    let with = |headers: OwnedHeaders, (key, value): &Pair| {
        let value = value.as_deref();
        headers.insert(Header { key, value })
    };
    pairs.iter().fold(OwnedHeaders::new(), with)
}

fn pairs(message: &Message) -> Vec<(String, Vec<u8>)> {
    let pair = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
    message.headers().iter().map(pair).collect()
}

#[test]
fn any_record_is_a_message_whose_bytes_are_kept() {
    let stream = StreamName::new("orders").unwrap();
    // One for all, for it remembers the type of the record before.
    let mut decoder = Decoder::new(stream.clone());
    for seed in 0..SEEDS {
        let rng = &mut Rng::with_seed(seed);
        let headers: Option<Vec<Pair>> = rng.bool().then(|| {
            let count = rng.usize(..8);
            let pair = || (header_name(rng), header_value(rng));
            std::iter::repeat_with(pair).take(count).collect()
        });
        let (data, key, time) = (maybe(rng, 50), maybe(rng, 20), time(rng));
        let (partition, offset) = (rng.i32(0..), rng.i64(0..));
        let record = OwnedMessage::new(
            data.clone(),
            key.clone(),
            stream.to_string(),
            time,
            partition,
            offset,
            headers.as_deref().map(owned_headers),
        );
        let message = decoder
            .message(&record)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));

        assert_eq!(message.stream(), &stream);
        assert_eq!(message.data(), &data.unwrap_or_default(), "seed {seed}");
        assert_eq!(
            message.key().map(|key| key.as_bytes().to_vec()),
            key,
            "seed {seed}"
        );
        if let Some(millis @ 1..) = time.to_millis() {
            assert_eq!(message.time(), from_unix_millis(millis), "seed {seed}");
        }
        let headers = headers.unwrap_or_default();
        // The first that can be read.
        let named = |name: &'static str| {
            let of_it = headers.iter().filter(move |(other, _)| other == name);
            of_it.filter_map(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
        };
        let id = named(MESSAGE_ID).find_map(|id| MessageId::new(id).ok());
        let id = id.map_or(format!("orders/{partition}/{offset}"), |id| {
            id.as_str().to_owned()
        });
        assert_eq!(message.id().as_str(), id, "seed {seed}");
        let content_type = named(CONTENT_TYPE)
            .next()
            .map_or(ContentType::BYTES, ContentType::new);
        assert_eq!(message.content_type(), &content_type, "seed {seed}");
        let others = headers.iter().filter(|(name, _)| {
            !name.is_empty()
                && !name.starts_with(FACTS)
                && name != MESSAGE_ID
                && name != CONTENT_TYPE
        });
        let others: Vec<_> = others
            .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))
            .collect();
        assert_eq!(pairs(&message), others, "seed {seed}");

        // A dead letter of it can be written.
        to_headers(&message).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        to_timestamp(&message).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn what_is_written_comes_back_as_it_was() {
    let stream = StreamName::new("orders").unwrap();
    let mut decoder = Decoder::new(stream.clone());
    let mut written = 0;
    for seed in 0..SEEDS {
        let rng = &mut Rng::with_seed(seed);
        let mut message = Message::builder(&stream)
            .maybe_key(maybe(rng, 20).as_deref().map(Key::from))
            .time(from_unix_millis(rng.i64(1..4_000_000_000_000)))
            .data(bytes(rng, 50));
        for _ in 0..rng.usize(..6) {
            message = message.header(header_name(rng), header_value(rng).unwrap_or_default());
        }
        if rng.bool() {
            message = message.content_type(ContentType::new(text(rng, 20)));
        }
        if let (true, Ok(id)) = (rng.bool(), MessageId::new(text(rng, 20))) {
            message = message.id(id);
        }
        let message = message.build_received().unwrap();
        // What the format has no place for is refused instead.
        let taken =
            |name: &str| name == MESSAGE_ID || name == CONTENT_TYPE || name.starts_with(FACTS);
        let names: Vec<_> = message.headers().iter().map(|(name, _)| name).collect();
        let Ok(headers) = to_headers(&message) else {
            assert!(names.iter().any(|name| taken(name)), "seed {seed}");
            continue;
        };
        if names.iter().any(|name| name.is_empty()) {
            continue; // the core refuses it
        }
        written += 1;
        let time = to_timestamp(&message).unwrap();
        let data = Some(message.data().to_vec()).filter(|data| !data.is_empty());
        let record = OwnedMessage::new(
            data,
            message.key().map(|key| key.as_bytes().to_vec()),
            stream.to_string(),
            Timestamp::CreateTime(time),
            0,
            0,
            Some(headers),
        );
        let read = decoder.message(&record).unwrap();
        assert_eq!(read, message, "seed {seed}");
        assert_eq!(pairs(&read), pairs(&message), "seed {seed}");
    }
    assert!(
        written > SEEDS / 4,
        "hardly anything was written: {written}"
    );
}
