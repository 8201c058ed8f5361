//! The program from end to end.

#[cfg(all(feature = "sqs", feature = "sns"))]
mod amazon;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "kafka")]
mod kafka;
mod mariadb;
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod settings;
mod sqlite;
mod support;
