#![doc = include_str!("../README.md")]

mod ask;
mod clock;
mod error;
#[cfg(feature = "proxy")]
mod http_proxy;
mod install;
mod kafka;
#[cfg(feature = "testkit")]
mod kit;
mod place;
mod process;
#[cfg(feature = "proxy")]
mod proxy;
mod server;
mod servers;
mod service;
mod wait;

pub use clock::with_wrong_clock;
pub use error::{Error, Result};
#[cfg(feature = "proxy")]
pub use http_proxy::{Http, HttpProxy, Step};
pub use install::{go_program, install_build_tools};
#[cfg(feature = "security")]
pub use kafka::Security;
pub use kafka::{Kafka, KafkaBuilder};
#[cfg(feature = "testkit")]
pub use kit::Faults;
#[cfg(feature = "proxy")]
pub use proxy::Proxy;
pub use server::Server;
pub use servers::{
    DynamoDb, ElasticMq, Etcd, MariaDb, Moto, Nats, Postgres, Redis, RedisCluster, RedisSentinel,
};
pub use service::{Running, Service};
