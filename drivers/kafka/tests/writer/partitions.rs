//! Keys go to the partitions other clients would send them to.

use streams_core::{Driver as _, Message};
use streams_kafka::Partitioner;

use crate::support::{brokers, read, settings, topic};

/// MurmurHash2 as the Java client has it, for `Utils.toPositive(Utils.murmur2(key)) % partitions`.
/// Its vectors are those of Kafka's own tests.
fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let chunks = data.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (i, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)).cast_signed()
}

/// FNV-1a 32 as Go's standard library has it.
fn fnv1a(data: &[u8]) -> i32 {
    let hash = data.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    hash.cast_signed()
}

#[test]
fn the_hashes_have_their_known_values() {
    // From Kafka's UtilsTest.
    for (key, hash) in [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
    ] {
        assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
    }
    // From Go's hash/fnv tests.
    for (key, hash) in [
        ("", 0x811c_9dc5_u32),
        ("a", 0xe40c_292c),
        ("ab", 0x4d25_05ca),
        ("abc", 0x1a47_e90b),
    ] {
        assert_eq!(fnv1a(key.as_bytes()), hash.cast_signed(), "{key}");
    }
}

#[tokio::test]
async fn keys_go_where_other_clients_send_them() {
    const PARTITIONS: i32 = 7;
    let java = |key: &[u8]| (murmur2(key) & i32::MAX) % PARTITIONS;
    // As goka and sarama: the remainder of the signed hash, without its sign.
    let go = |key: &[u8]| (fnv1a(key) % PARTITIONS).abs();
    let expected = |partitioner, key: &[u8]| match partitioner {
        Partitioner::Murmur2 => java(key),
        _ => go(key),
    };
    for partitioner in [Partitioner::Murmur2, Partitioner::Fnv1a] {
        let kafka = settings().await.partitioner(partitioner).build().unwrap();
        let topic = topic(&kafka, "keys", 7).await;
        let mut keys: Vec<Vec<u8>> = (0..300).map(|n| format!("user-{n}").into_bytes()).collect();
        keys.extend([vec![], vec![0xff, 0, 0x80], b"21".to_vec(), "ключ".into()]);
        let message = |key: &Vec<u8>| Message::builder(&topic).key(&key[..]).data("0 x").build();
        let batch: Vec<_> = keys.iter().map(|key| message(key).unwrap()).collect();
        kafka.writer().write(&batch).await.unwrap();
        let records = read(&brokers().await, &topic).await;
        assert_eq!(records.len(), keys.len());
        for record in records {
            let key = record.key.unwrap();
            assert_eq!(
                record.partition,
                expected(partitioner, &key),
                "{partitioner:?} of {key:?}"
            );
        }
    }
}

#[tokio::test]
async fn messages_without_a_key_are_spread() {
    let kafka = settings().await.build().unwrap();
    let topic = topic(&kafka, "spread", 4).await;
    let writer = kafka.writer();
    let mut found = [0; 4];
    // The client sends those of some milliseconds to one partition, and then to another.
    while found.contains(&0) {
        for _ in 0..50 {
            let message = Message::builder(&topic).data("0 x").build().unwrap();
            writer.write(&[message]).await.unwrap();
        }
        found = [0; 4];
        for record in read(&brokers().await, &topic).await {
            found[usize::try_from(record.partition).unwrap()] += 1;
        }
        assert!(found.iter().sum::<usize>() < 20_000, "{found:?}");
    }
}
