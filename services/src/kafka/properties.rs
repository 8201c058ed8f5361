//! The configuration of brokers.

use std::fmt::Write;

#[cfg(feature = "security")]
use super::Security;
use super::{KafkaBuilder, node};
use crate::Result;
use crate::place::Place;

/// A broker that was killed is let in again only when its session has timed out, so that is short.
const ALWAYS: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
auto.create.topics.enable=false
delete.topic.enable=true
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.backoff.ms=100
log.cleaner.dedupe.buffer.size=4194304
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=250
";

/// The id of the node at an index.
pub(super) fn id(index: usize) -> usize {
    index + 1
}

impl KafkaBuilder {
    /// `server.properties` of every node.
    pub(super) fn server_properties(
        &self,
        places: &[Place],
        #[cfg(feature = "security")] security: Option<&Security>,
    ) -> Result<Vec<String>> {
        let voters: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(index, place)| format!("{}@{}", id(index), place.address(node::CONTROLLER)))
            .collect();
        let mut texts = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let mut listeners = vec![
                listener("CLIENTS", "PLAINTEXT", place, node::CLIENTS),
                listener("CONTROLLER", "PLAINTEXT", place, node::CONTROLLER),
            ];
            if self.proxied {
                listeners.push(Listener {
                    advertised: node::PROXY,
                    ..listener("PROXIED", "PLAINTEXT", place, node::PROXIED)
                });
            }
            let mut text = ALWAYS.to_owned();
            #[cfg(feature = "security")]
            if let Some(security) = security {
                listeners.push(listener("SECURE", "SASL_SSL", place, node::SECURE));
                text += &security.properties("secure", place)?;
            }
            let mut set = |name: &str, value: &str| {
                let _ = writeln!(text, "{name}={value}");
            };
            set("node.id", &id(index).to_string());
            set("log.dirs", &place.file("data").display().to_string());
            set("controller.quorum.voters", &voters.join(","));
            set("listeners", &join(&listeners, Listener::bound));
            let advertised: Vec<_> = listeners
                .iter()
                .filter(|listener| listener.name != "CONTROLLER")
                .collect();
            set("advertised.listeners", &join(advertised, Listener::told));
            set(
                "listener.security.protocol.map",
                &join(&listeners, |listener| {
                    format!("{}:{}", listener.name, listener.protocol)
                }),
            );
            let replicas = places.len().min(3);
            let insync = replicas.saturating_sub(1).max(1);
            for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
                set(
                    &format!("{topic}.replication.factor"),
                    &replicas.to_string(),
                );
                set(&format!("{topic}.min.isr"), &insync.to_string());
            }
            set("offsets.topic.replication.factor", &replicas.to_string());
            set("default.replication.factor", &replicas.to_string());
            set("min.insync.replicas", &insync.to_string());
            // Last, as the last one counts.
            for (name, value) in &self.properties {
                let _ = writeln!(text, "{name}={}", value.replace('\\', "\\\\"));
            }
            texts.push(text);
        }
        Ok(texts)
    }
}

struct Listener<'a> {
    name: &'static str,
    protocol: &'static str,
    place: &'a Place,
    port: usize,
    /// The port that clients are told.
    advertised: usize,
}

fn listener<'a>(
    name: &'static str,
    protocol: &'static str,
    place: &'a Place,
    port: usize,
) -> Listener<'a> {
    Listener {
        name,
        protocol,
        place,
        port,
        advertised: port,
    }
}

impl Listener<'_> {
    fn bound(&self) -> String {
        format!("{}://{}", self.name, self.place.address(self.port))
    }

    fn told(&self) -> String {
        format!("{}://{}", self.name, self.place.address(self.advertised))
    }
}

fn join<'a, 'b: 'a>(
    listeners: impl IntoIterator<Item = &'a Listener<'b>>,
    text: impl Fn(&Listener<'b>) -> String,
) -> String {
    let texts: Vec<_> = listeners.into_iter().map(text).collect();
    texts.join(",")
}
