#![doc = include_str!("../README.md")]

mod ask;
mod error;
mod install;
mod kafka;
mod place;
mod process;
#[cfg(feature = "proxy")]
mod proxy;
mod server;
mod servers;
mod service;
mod wait;

pub use error::{Error, Result};
pub use install::install_build_tools;
#[cfg(feature = "security")]
pub use kafka::Security;
pub use kafka::{Kafka, KafkaBuilder};
#[cfg(feature = "proxy")]
pub use proxy::Proxy;
pub use server::Server;
pub use servers::{
    DynamoDb, ElasticMq, Etcd, MariaDb, Moto, Nats, Postgres, Redis, RedisCluster, RedisSentinel,
};
pub use service::{Running, Service};
