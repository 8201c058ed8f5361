use super::*;

fn round_trip(message: &Message) -> Message {
    let mut all = Vec::new();
    fields(message, |name, value| {
        all.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
    });
    let entry = "1700000000000-3".parse().unwrap();
    decode(message.stream(), entry, all.into_iter()).unwrap()
}

fn entry(pairs: &[(&str, &[u8])]) -> Message {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (Bytes::from(name.to_string()), Bytes::copy_from_slice(value)));
    let stream = StreamName::new("orders").unwrap();
    decode(&stream, "1700000000123-7".parse().unwrap(), pairs).unwrap()
}

#[test]
fn a_message_comes_back_as_it_was() {
    let time = from_unix_millis(1_700_000_000_123);
    let plain = Message::builder("orders").data("x").time(time).build();
    let plain = plain.unwrap();
    let mut headers = Headers::new();
    headers.append("a", "1");
    headers.append("a", "2");
    headers.append("binary", &[0, 159][..]);
    let full = plain
        .to_builder()
        .key(&[0, 255][..])
        .content_type(ContentType::JSON)
        .headers(headers)
        .build()
        .unwrap();
    let empty_key = plain.to_builder().key("").build().unwrap();
    for message in [plain, empty_key, full] {
        assert_eq!(round_trip(&message), message);
    }
}

#[test]
fn event_name_and_topic_are_pulses_fields_and_come_back_as_headers() {
    for (event, topic) in [
        (Some("OrderPaid"), Some("eu")),
        (None, Some("eu")),
        (Some("orders"), None), // the stream's own name
        (Some(""), Some("")),
        (None, None),
    ] {
        let mut message = Message::builder("orders").data("x").header("z", "1");
        message = message.time(from_unix_millis(5));
        for (name, value) in [(EVENT_NAME, event), (TOPIC, topic)] {
            if let Some(value) = value {
                message = message.header(name, value);
            }
        }
        let message = message.build().unwrap();
        let back = round_trip(&message);
        for name in [EVENT_NAME, TOPIC, "z"] {
            assert_eq!(back.headers().get(name), message.headers().get(name));
        }
        assert_eq!(back.headers().len(), message.headers().len());
    }
}

#[test]
fn an_entry_of_pulse_is_a_message_with_the_same_id_each_time() {
    let fields: &[(&str, &[u8])] = &[("n", b"OrderPaid"), ("p", b"{}"), ("t", b"eu")];
    let message = entry(fields);
    assert_eq!(message.data(), "{}");
    assert_eq!(message.id().as_str(), "orders:1700000000123-7");
    assert_eq!(message.id(), entry(fields).id());
    assert_eq!(unix_millis(message.time()), 1_700_000_000_123);
    assert_eq!(message.headers().get_str(EVENT_NAME), Some("OrderPaid"));
    assert_eq!(message.headers().get_str(TOPIC), Some("eu"));
}

#[test]
fn an_event_of_pulse_has_its_name_also_where_it_is_the_streams() {
    let message = entry(&[("n", b"orders"), ("p", b"{}")]);
    assert_eq!(message.headers().get_str(EVENT_NAME), Some("orders"));
}

#[test]
fn a_damaged_entry_is_a_message_all_the_same() {
    let message = entry(&[
        ("i", b"\xff"),
        ("m", b"soon"),
        ("c", b"\xff"),
        ("\u{1}", b"?"),
    ]);
    assert!(message.data().is_empty());
    assert_eq!(message.id().as_str(), "orders:1700000000123-7");
}

#[test]
fn numbers_are_written_in_full() {
    for number in [0, 7, -1, i64::MAX, i64::MIN] {
        assert_eq!(Decimal::default().of(number), number.to_string().as_bytes());
    }
}
