//! Where Kafka is.

use std::env;

const NOT_SAID: &str = "\
it is not said where Kafka is; set STREAMS_KAFKA_BROKERS, or give --brokers HOST:PORT

To start one on this machine:
  eval \"$(cargo xtask services up kafka)\"
or with Docker:
  docker compose up --wait kafka
  export STREAMS_KAFKA_BROKERS=127.0.0.1:9092";

/// What `--brokers` says, or else the variable.
pub(crate) fn brokers() -> Result<String, String> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let unknown = match &arguments[..] {
        [] => return env::var("STREAMS_KAFKA_BROKERS").map_err(|_| NOT_SAID.to_owned()),
        [flag] if flag == "--brokers" => return Err("--brokers needs HOST:PORT".to_owned()),
        [flag, brokers] if flag == "--brokers" => return Ok(brokers.display().to_string()),
        [flag, _, unknown, ..] if flag == "--brokers" => unknown,
        [unknown, ..] => unknown,
    };
    Err(format!(
        "unknown argument `{}`; the only one is --brokers HOST:PORT",
        unknown.display()
    ))
}
