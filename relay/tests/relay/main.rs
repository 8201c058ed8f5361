//! The program from end to end.

#[cfg(feature = "kafka")]
mod kafka;
mod mariadb;
mod postgres;
mod settings;
mod sqlite;
mod support;
