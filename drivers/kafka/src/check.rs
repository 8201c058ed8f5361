//! The checks of every setting before anything is connected.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer as _};
use streams_core::{Error, Result};

use crate::config::{Compression, Config, DRIVER};
use crate::properties::{check_not_owned, is_secret};

/// # Errors
/// [`ErrorKind::InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for the first setting that
/// cannot be.
pub(crate) fn check(config: &Config) -> Result<()> {
    check_brokers(&config.brokers)?;
    check_ranges(config)?;
    config.security.check()?;
    if let Some(topics) = &config.create_topics {
        topics.check()?;
    }
    if config.compression == Compression::Zstd && !cfg!(feature = "zstd") {
        return Err(bad(
            "`Compression::Zstd` needs the feature `zstd` of streams-kafka, which this program was \
             built without; turn it on",
        ));
    }
    for property in &config.properties {
        check_not_owned(&property.name)?;
    }
    check_clients(config)
}

fn bad(what: impl Into<String>) -> Error {
    Error::invalid_config(what).driver(DRIVER)
}

fn check_brokers(brokers: &str) -> Result<()> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = |host: &str| {
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@[]".contains(c))
    };
    let is_address = |address: &str| match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => is_host(host) && is_port(port),
        _ => is_host(address),
    };
    if brokers.split(',').all(|address| is_address(address.trim())) {
        return Ok(());
    }
    // Not repeated: somebody may have written a password into them.
    Err(bad(
        "the brokers are not a list of addresses; write them like `host:9092,other:9092`",
    ))
}

fn check_ranges(config: &Config) -> Result<()> {
    let at_least_a_milli = [
        ("connect_timeout", config.connect_timeout),
        ("delivery_timeout", config.delivery_timeout),
        ("transaction_timeout", config.transaction_timeout),
    ];
    for (name, value) in at_least_a_milli {
        if value < Duration::from_millis(1) || value.as_millis() > i32::MAX as u128 {
            return Err(bad(format!(
                "`{name}` is {value:?}; use between 1 ms and 24 days"
            )));
        }
    }
    if config.transaction_timeout < Duration::from_secs(1) {
        return Err(bad(
            "`transaction_timeout` is under 1 second, which the brokers refuse",
        ));
    }
    if config.linger > Duration::from_secs(900) {
        return Err(bad("`linger` is over 15 minutes; use less"));
    }
    if config.linger >= config.delivery_timeout {
        return Err(bad(
            "`linger` is not under `delivery_timeout`, so that nothing could be sent in time",
        ));
    }
    if config.client_id.is_empty() {
        return Err(bad("`client_id` is empty; leave it out for the default"));
    }
    if config.transactional_id.as_deref() == Some("") {
        return Err(bad(
            "`transactional_id` is empty; leave it out for the default",
        ));
    }
    let counts = [
        ("batch_size", config.batch_size, i32::MAX as usize),
        ("largest_message", config.largest_message, 900_000_000),
        ("queue_messages", config.queue_messages, usize::MAX),
        ("queue_bytes", config.queue_bytes, usize::MAX),
    ];
    for (name, value, most) in counts {
        if value == 0 || value > most {
            return Err(bad(format!(
                "`{name}` is {value}; use between 1 and {most}"
            )));
        }
    }
    Ok(())
}

/// Has the client library check each property, and all of them together, by making clients that
/// know no broker.
fn check_clients(config: &Config) -> Result<()> {
    for (name, value) in config.properties.iter().map(|one| (&one.name, &one.value)) {
        let mut alone = ClientConfig::new();
        alone.set(name, value);
        if let Err(source) = alone.create_native_config() {
            return Err(property_error(config, &source));
        }
    }
    let without_brokers = |mut client: ClientConfig| {
        client.remove("bootstrap.servers");
        client
    };
    let consumer = without_brokers(config.any_consumer());
    let made = consumer.create::<BaseConsumer>().map(|one| {
        let _ = one.client();
    });
    made.map_err(|source| property_error(config, &source))?;
    for producer in [config.producer(), config.transactional_producer("check")] {
        let producer = without_brokers(producer);
        let made = producer
            .create::<BaseProducer<DefaultProducerContext>>()
            .map(|one| {
                let _ = one.client();
            });
        made.map_err(|source| property_error(config, &source))?;
    }
    Ok(())
}

/// What the client library says against a setting, without secrets: it likes to repeat values.
fn property_error(config: &Config, source: &KafkaError) -> Error {
    let (name, text) = match source {
        KafkaError::ClientConfig(_, text, name, _) => (Some(&**name), &**text),
        KafkaError::ClientCreation(text) => (None, &**text),
        other => {
            return bad("the client cannot be made; see the cause").with("cause", other);
        }
    };
    let error = bad("librdkafka does not take a setting; correct the property, or leave it out");
    match name {
        Some(name) if is_secret(name) => error
            .with("property", name)
            .with("reason", "its value, which is not shown, is not valid"),
        Some(name) => error
            .with("property", name)
            .with("reason", config.secrets.hide(text)),
        None => error.with("reason", config.secrets.hide(text)),
    }
}

#[cfg(test)]
mod tests;
