//! Records that other programs wrote.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use streams_core::{ContentType, ReadOptions, StartFrom};
use streams_kafka::NewTopics;

use crate::support::{brokers, kafka, next, plain, produce_raw, subscribe, take, topic};

#[tokio::test]
async fn a_record_without_anything_has_an_id_that_stays() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "plain", &NewTopics::new(1)).await;
    produce_raw(&brokers().await, |producer| {
        producer.send(plain(&stream, "hello")).unwrap();
    })
    .await;
    let options = ReadOptions::new(&stream).unwrap().start_from(StartFrom::Earliest);
    for _ in 0..2 {
        let mut subscription = subscribe(&kafka, &options).await;
        let deliveries = next(&mut *subscription).await;
        let message = &deliveries[0].message;
        assert_eq!(message.id().as_str(), format!("{stream}/0/0"));
        assert_eq!(message.key(), None);
        assert!(message.headers().is_empty());
        assert_eq!(message.content_type(), &ContentType::BYTES);
        assert_eq!(&message.data()[..], b"hello");
        subscription.close().await.unwrap();
    }
}

#[tokio::test]
async fn null_values_and_odd_headers_are_readable() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "odd", &NewTopics::new(1)).await;
    produce_raw(&brokers().await, |producer| {
        let odd = &[0xff, 0xfe, 0x00][..];
        let header = |key, value| Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("bytes", Some(odd)))
            .insert(header("null", None::<&[u8]>))
            .insert(header("twice", Some(&b"1"[..])))
            .insert(header("twice", Some(&b"2"[..])))
            // An id that is none, and a fact that is stale.
            .insert(header("message_id", Some(odd)))
            .insert(header("streams-kafka-partition-id", Some(&b"9"[..])));
        let record = BaseRecord::<[u8], [u8]>::to(stream.as_str())
            .key(&[])
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        let record = BaseRecord::<[u8], [u8]>::to(stream.as_str()).payload(&[]);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    })
    .await;
    let options = ReadOptions::new(&stream).unwrap().start_from(StartFrom::Earliest);
    let mut subscription = subscribe(&kafka, &options).await;
    let deliveries = take(&mut *subscription, 2).await;
    let message = &deliveries[0].message;
    assert!(message.data().is_empty());
    assert_eq!(message.key().map(|key| key.as_bytes().len()), Some(0));
    assert_eq!(message.id().as_str(), format!("{stream}/0/0"));
    let headers: Vec<_> = message.headers().iter().collect();
    assert_eq!(
        headers,
        [
            ("bytes", &[0xff, 0xfe, 0x00][..]),
            ("null", &[][..]),
            ("twice", &b"1"[..]),
            ("twice", &b"2"[..]),
        ]
    );
    // The reader's own facts are not headers.
    let facts = deliveries[0].metadata.as_ref().unwrap();
    let fact = |name| facts.get(name, deliveries[1].token.id());
    assert_eq!(fact("streams-kafka-partition-id").as_deref(), Some("0"));
    assert_eq!(fact("streams-kafka-init-offset").as_deref(), Some("0"));
    assert_eq!(fact("streams-kafka-current-offset").as_deref(), Some("1"));
    assert_eq!(fact("streams-kafka-hwm-offset").as_deref(), Some("2"));
    assert!(fact("streams-kafka-client-id").is_some());
    assert_eq!(fact("streams-kafka-group-id"), None);
    assert!(deliveries[1].message.data().is_empty());
    subscription.close().await.unwrap();
}
