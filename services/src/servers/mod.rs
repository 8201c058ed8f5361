//! The servers that are one process each.

mod dynamodb;
mod elasticmq;
mod etcd;
mod mariadb;
mod moto;
mod nats;
mod postgres;
mod redis;
mod redis_modes;

pub use dynamodb::DynamoDb;
pub use elasticmq::ElasticMq;
pub use etcd::Etcd;
pub use mariadb::MariaDb;
pub use moto::Moto;
pub use nats::Nats;
pub use postgres::Postgres;
pub use redis::Redis;
pub use redis_modes::{RedisCluster, RedisSentinel};
