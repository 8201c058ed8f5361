//! Records are as the format says, and what cannot be one is refused by index.

use streams_core::{ContentType, Driver as _, ErrorKind, Key, Message, from_unix_millis};
use streams_kafka::Compression;

use crate::support::{brokers, numbered, read, settings, topic};

#[tokio::test]
async fn a_message_arrives_as_the_format_says() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "format", 1).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let message = Message::builder(&topic)
        .key("user-17")
        .header("tenant", "acme")
        .header("ключ", "\"\n")
        .header("binary", &all_bytes[..])
        .header("empty", "")
        .content_type(ContentType::JSON)
        .time(from_unix_millis(1_700_000_000_123))
        .data(all_bytes.clone())
        .build()
        .unwrap();
    let without = Message::builder(&topic).key("").data("x").build().unwrap();
    let writer = kafka.writer();
    writer.write(&[message.clone(), without]).await.unwrap();

    let records = read(&brokers().await, &topic).await;
    assert_eq!(records[0].key.as_deref(), Some(&b"user-17"[..]));
    assert_eq!(records[0].value.as_ref(), Some(&all_bytes));
    assert_eq!(records[0].millis, 1_700_000_000_123);
    let text = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    assert_eq!(
        records[0].headers,
        [
            text("message_id", message.id().as_str()),
            text("content_type", "application/json"),
            text("tenant", "acme"),
            text("ключ", "\"\n"),
            ("binary".to_owned(), Some(all_bytes)),
            text("empty", ""),
        ]
    );
    assert_eq!(
        records[1].key.as_deref(),
        Some(&b""[..]),
        "an empty key is a key"
    );
}

#[tokio::test]
async fn no_data_with_a_key_is_a_tombstone_and_without_is_refused() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "tombstone", 1).await;
    let empty = |key: Option<&str>| {
        let message = Message::builder(&topic).maybe_key(key.map(Key::from));
        message.build_received().unwrap()
    };
    let batch = [
        numbered(&topic, Some("a"), 0),
        empty(None),
        empty(Some("a")),
    ];
    let error = kafka.writer().write(&batch).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    assert_eq!(error.failures()[0].1.kind(), ErrorKind::EmptyMessage);

    let records = read(&brokers().await, &topic).await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].value, None);
    assert_eq!(records[1].key.as_deref(), Some(&b"a"[..]));
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_by_index_and_the_rest_goes() {
    let kafka = settings().await.largest_message(2000).build().unwrap();
    let topic = topic(&kafka, "refused", 3).await;
    let missing = crate::support::unique("missing");
    let mut batch: Vec<_> = (0..9).map(|n| numbered(&topic, None, n)).collect();
    let taken = numbered(&topic, None, 2).to_builder();
    batch[2] = taken.header("message_id", "x").build().unwrap();
    batch[4] = numbered(&missing, None, 4);
    let large = Message::builder(&topic).data(vec![b'x'; 2001]);
    batch[5] = large.build().unwrap();
    batch[6] = numbered(&topic, None, 6)
        .to_builder()
        .time(from_unix_millis(-5))
        .build()
        .unwrap();
    batch[8] = Message::builder("not/a/topic").data("x").build().unwrap();

    let error = kafka.writer().write(&batch).await.unwrap_err();
    let failures: Vec<_> = error
        .failures()
        .iter()
        .map(|(index, error)| (*index, error.kind()))
        .collect();
    assert_eq!(
        failures,
        [
            (2, ErrorKind::InvalidMessage),
            (4, ErrorKind::NotFound),
            (5, ErrorKind::TooLarge),
            (6, ErrorKind::InvalidMessage),
            (8, ErrorKind::InvalidMessage),
        ]
    );
    for (_, error) in error.failures() {
        let text = error.to_string();
        assert!(
            text.starts_with("write on kafka: ") && text.contains("topic="),
            "{text}"
        );
    }
    let records = read(&brokers().await, &topic).await;
    crate::support::assert_once(&records, [0, 1, 3, 7]);
}

#[tokio::test]
async fn an_empty_batch_is_written() {
    let kafka = settings().await.build().unwrap();
    kafka.writer().write(&[]).await.unwrap();
    kafka.writer().write_in_transaction(&[]).await.unwrap();
}

#[tokio::test]
async fn one_batch_goes_to_many_topics() {
    let kafka = settings().await.build().unwrap();
    let mut topics = Vec::new();
    for n in 0..5 {
        topics.push(topic(&kafka, &format!("many-{n}"), 2).await);
    }
    let batch: Vec<_> = (0..500)
        .map(|n| numbered(&topics[n % 5], None, n))
        .collect();
    kafka.writer().write(&batch).await.unwrap();
    for (n, topic) in topics.iter().enumerate() {
        let records = read(&brokers().await, topic).await;
        crate::support::assert_once(&records, (n..500).step_by(5));
    }
}

#[tokio::test]
async fn every_compression_is_read_back() {
    let mut compressions = vec![
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
    ];
    if cfg!(feature = "zstd") {
        compressions.push(Compression::Zstd);
    }
    for compression in compressions {
        let kafka = settings().await.compression(compression).build().unwrap();
        let topic = topic(&kafka, "compressed", 1).await;
        let batch: Vec<_> = (0..100).map(|n| numbered(&topic, None, n)).collect();
        kafka.writer().write(&batch).await.unwrap();
        let records = read(&brokers().await, &topic).await;
        crate::support::assert_once(&records, 0..100);
    }
}
