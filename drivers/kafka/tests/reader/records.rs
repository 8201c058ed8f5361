//! Records that other programs wrote.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use streams_core::{ContentType, ReadOptions, StartFrom};
use streams_kafka::NewTopics;

use crate::support::{PATIENCE, brokers, kafka, next, plain, produce_raw, subscribe, take, topic};

#[tokio::test]
async fn a_record_without_anything_has_an_id_that_stays() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "plain", &NewTopics::new(1)).await;
    produce_raw(&brokers().await, |producer| {
        producer.send(plain(&stream, "hello")).unwrap();
    })
    .await;
    let options = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Earliest);
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
    let options = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Earliest);
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

/// The client can neither write nor read such a name, but other programs write it.
#[tokio::test]
async fn a_header_whose_name_is_not_utf_8_is_left_out() {
    let kafka = kafka().await;
    let stream = topic(&kafka, "not-utf-8", &NewTopics::new(1)).await;
    let headers: &[(&[u8], &[u8])] = &[
        (b"before", b"1"),
        (b"\xff\xfe", b"lost"),
        (b"", b"lost too"),
        ("\u{e4}".as_bytes(), b"\xff"),
        (b"message_id", b"id-1"),
    ];
    let request = wire::produce(stream.as_str(), &wire::record(b"key", b"value", headers));
    let brokers = brokers().await;
    let to = stream.to_string();
    let answer = tokio::task::spawn_blocking(move || wire::ask(&leader(&brokers, &to), &request));
    assert_eq!(wire::error_code(&answer.await.unwrap()), 0);

    let options = ReadOptions::new(&stream)
        .unwrap()
        .start_from(StartFrom::Earliest);
    let mut subscription = subscribe(&kafka, &options).await;
    let deliveries = next(&mut *subscription).await;
    let message = &deliveries[0].message;
    assert_eq!(message.id().as_str(), "id-1");
    assert_eq!(message.key().unwrap().as_str(), Some("key"));
    assert_eq!(&message.data()[..], b"value");
    let headers: Vec<_> = message.headers().iter().collect();
    assert_eq!(headers, [("before", &b"1"[..]), ("\u{e4}", &b"\xff"[..])]);
    subscription.close().await.unwrap();
}

/// The address of the broker that leads a topic's first partition.
fn leader(brokers: &str, topic: &str) -> String {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let id = metadata.topics()[0].partitions()[0].leader();
    let leader = metadata
        .brokers()
        .iter()
        .find(|broker| broker.id() == id)
        .unwrap();
    format!("{}:{}", leader.host(), leader.port())
}

/// As much of Kafka's protocol as writes a record that no client would.
mod wire {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    /// A signed number, small ones short.
    fn varint(number: i64) -> Vec<u8> {
        let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
        let mut bytes = Vec::new();
        while rest > 0x7f {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [varint(bytes.len() as i64), bytes.to_vec()].concat()
    }

    fn crc_32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    /// A batch of one record.
    pub(super) fn record(key: &[u8], value: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
        // Attributes, and the distances to the batch's time and offset.
        let mut record = vec![0, 0, 0];
        record.extend([sized(key), sized(value), varint(headers.len() as i64)].concat());
        for (name, value) in headers {
            record.extend([sized(name), sized(value)].concat());
        }
        let time = 1_700_000_000_000_i64.to_be_bytes();
        let mut batch = vec![0; 6]; // attributes, last offset
        batch.extend([time, time].concat());
        batch.extend([0xff; 14]); // no producer id, epoch and sequence
        batch.extend(1_i32.to_be_bytes());
        batch.extend(sized(&record));
        let mut all = vec![0; 8]; // offset
        all.extend((batch.len() as i32 + 9).to_be_bytes());
        all.extend([0xff; 4]); // leader epoch
        all.push(2); // version
        all.extend(crc_32c(&batch).to_be_bytes());
        all.extend(batch);
        all
    }

    /// Asks for a batch to be written to a topic's first partition.
    pub(super) fn produce(topic: &str, batch: &[u8]) -> Vec<u8> {
        let mut request = Vec::new();
        request.extend([0, 0, 0, 3]); // Produce, version 3
        request.extend([0, 0, 0, 7, 0xff, 0xff]); // correlation, no client id
        request.extend([0xff, 0xff]); // no transaction
        request.extend([0xff, 0xff, 0, 0, 0x4e, 0x20]); // acks=all within 20 s
        request.extend(1_i32.to_be_bytes());
        request.extend((topic.len() as i16).to_be_bytes());
        request.extend(topic.as_bytes());
        request.extend([1_i32.to_be_bytes(), 0_i32.to_be_bytes()].concat());
        request.extend((batch.len() as i32).to_be_bytes());
        request.extend(batch);
        request
    }

    pub(super) fn ask(broker: &str, request: &[u8]) -> Vec<u8> {
        let mut connection = TcpStream::connect(broker).unwrap();
        connection.set_read_timeout(Some(super::PATIENCE)).unwrap();
        connection
            .write_all(&(request.len() as i32).to_be_bytes())
            .unwrap();
        connection.write_all(request).unwrap();
        let mut length = [0; 4];
        connection.read_exact(&mut length).unwrap();
        let mut answer = vec![0; i32::from_be_bytes(length) as usize];
        connection.read_exact(&mut answer).unwrap();
        answer
    }

    /// Of the one partition.
    pub(super) fn error_code(answer: &[u8]) -> i16 {
        // Correlation, one topic, its name, one partition, its number.
        let topic = usize::from(u16::from_be_bytes([answer[8], answer[9]]));
        let at = 10 + topic + 8;
        i16::from_be_bytes([answer[at], answer[at + 1]])
    }
}
