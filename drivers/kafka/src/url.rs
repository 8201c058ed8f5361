//! The driver by URL.

use std::time::Duration;

use streams_core::{DriverUrl, Error, Result};

use crate::config::{Compression, DRIVER, KafkaBuilder, Partitioner};
use crate::security::{Sasl, Security, Tls};
use crate::topics::NewTopics;

pub(crate) const PARAMETERS: &[&str] = &[
    "client_id",
    "connect_timeout_ms",
    "delivery_timeout_ms",
    "linger_ms",
    "batch_size",
    "compression",
    "partitioner",
    "largest_message",
    "queue_messages",
    "queue_bytes",
    "transactional_id",
    "transaction_timeout_ms",
    "create_partitions",
    "create_replication",
    "tls",
    "ca_file",
    "certificate_file",
    "key_file",
    "sasl",
];

impl KafkaBuilder {
    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        let bad = |what: &str| Error::invalid_config(what).driver(DRIVER);
        if !url.path().trim_matches('/').is_empty() {
            return Err(bad(
                "the URL of Kafka has a path, which means nothing; leave it out, as in \
                 `kafka://host:9092?client_id=billing`",
            ));
        }
        let mut this = Self::new(&url.hosts().join(","));
        let config = &mut this.config;
        let number = |name| url.parse_parameter::<usize>(name);
        let duration = |name| {
            let millis = url.parse_parameter::<u64>(name)?;
            Ok::<_, Error>(millis.map(Duration::from_millis))
        };
        let set = |to: &mut Duration, name| -> Result<()> {
            *to = duration(name)?.unwrap_or(*to);
            Ok(())
        };
        if let Some(id) = url.parameter("client_id") {
            id.clone_into(&mut config.client_id);
        }
        set(&mut config.connect_timeout, "connect_timeout_ms")?;
        set(&mut config.delivery_timeout, "delivery_timeout_ms")?;
        set(&mut config.linger, "linger_ms")?;
        set(&mut config.transaction_timeout, "transaction_timeout_ms")?;
        config.batch_size = number("batch_size")?.unwrap_or(config.batch_size);
        config.largest_message = number("largest_message")?.unwrap_or(config.largest_message);
        config.queue_messages = number("queue_messages")?.unwrap_or(config.queue_messages);
        config.queue_bytes = number("queue_bytes")?.unwrap_or(config.queue_bytes);
        config.transactional_id = url.parameter("transactional_id").map(str::to_owned);
        let compressions = [
            ("none", Compression::None),
            ("gzip", Compression::Gzip),
            ("snappy", Compression::Snappy),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd),
        ];
        config.compression = choice(url, "compression", &compressions)?.unwrap_or_default();
        let partitioners = [
            ("murmur2", Partitioner::Murmur2),
            ("fnv1a", Partitioner::Fnv1a),
            ("crc32", Partitioner::Crc32),
        ];
        config.partitioner = choice(url, "partitioner", &partitioners)?.unwrap_or_default();
        if let Some(partitions) = url.parse_parameter("create_partitions")? {
            let mut topics = NewTopics::new(partitions);
            if let Some(replication) = url.parse_parameter("create_replication")? {
                topics = topics.replication(replication);
            }
            config.create_topics = Some(topics);
        } else if url.parameter("create_replication").is_some() {
            return Err(bad(
                "the URL has `create_replication` without `create_partitions`; give both to have \
                 topics created, or neither",
            ));
        }
        config.security = security_of(url)?;
        Ok(this)
    }
}

fn security_of(url: &DriverUrl) -> Result<Security> {
    let bad = |what: &str| Error::invalid_config(what).driver(DRIVER);
    let wants_tls = choice(url, "tls", &[("true", true), ("false", false)])?.unwrap_or_default();
    let mut tls = Tls::new();
    if let Some(path) = url.parameter("ca_file") {
        tls = tls.ca_file(path);
    }
    match (url.parameter("certificate_file"), url.parameter("key_file")) {
        (Some(certificate), Some(key)) => tls = tls.certificate_files(certificate, key),
        (None, None) => {}
        _ => {
            return Err(bad(
                "the URL has only one of `certificate_file` and `key_file`; give both or neither",
            ));
        }
    }
    let names_files = ["ca_file", "certificate_file"];
    if !wants_tls && names_files.iter().any(|name| url.parameter(name).is_some()) {
        return Err(bad(
            "the URL names files for TLS but does not turn it on; add `tls=true`",
        ));
    }
    type Make = fn(String, String) -> Sasl;
    let mechanisms: [(&str, Make); 3] = [
        ("plain", Sasl::plain),
        ("scram-sha-256", Sasl::scram_sha_256),
        ("scram-sha-512", Sasl::scram_sha_512),
    ];
    let sasl = match (
        choice(url, "sasl", &mechanisms)?,
        url.user(),
        url.password(),
    ) {
        (None, None, _) => None,
        (Some(make), Some(user), Some(password)) => {
            Some(make(user.to_owned(), password.to_owned()))
        }
        (None, Some(_), _) => {
            return Err(bad(
                "the URL has a user but does not say how to log in; add `sasl=scram-sha-512`, \
                 `sasl=scram-sha-256` or `sasl=plain`",
            ));
        }
        (Some(_), ..) => {
            return Err(bad(
                "the URL has `sasl` without user and password; write them as \
                 `kafka://user:password@host:9092`",
            ));
        }
    };
    Ok(Security {
        tls: wants_tls.then_some(tls),
        sasl,
    })
}

fn choice<T: Copy>(url: &DriverUrl, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = url.parameter(name) else {
        return Ok(None);
    };
    match choices.iter().find(|(known, _)| *known == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Err(Error::invalid_config(format!(
                "the URL parameter `{name}` is `{text}`; use {}",
                names.join(" or ")
            ))
            .driver(DRIVER))
        }
    }
}
