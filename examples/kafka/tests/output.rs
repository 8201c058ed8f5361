//! Runs the program and reads what it prints.

use std::process::{Command, Output};
use std::time::Duration;

use streams_core::ErrorKind;
use streams_kafka::Kafka;
use streams_services::Service;

const VARIABLE: &str = "STREAMS_KAFKA_BROKERS";
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kafka-example"));
    program.env_remove(VARIABLE);
    program
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The topic of the run, and the lines after it.
fn printed(output: &Output) -> (&str, &str) {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (first, rest) = text(&output.stdout).split_once('\n').unwrap();
    (first.strip_prefix("topic ").unwrap(), rest)
}

#[tokio::test]
async fn prints_this_and_cleans_up() {
    let brokers = Service::Kafka.address().unwrap();
    let output = program().env(VARIABLE, &brokers).output().unwrap();
    let expected = "\
published 9 orders
the warehouse gets partitions [0, 1, 2]
the warehouse gives partitions [0, 1, 2] up

handled:
  Ada   order 1: packed
  Ada   order 2: packed
  Ada   order 3: packed
  Grace order 1: packed
  Grace order 2: the shelf is locked, at attempt 1
  Grace order 2: packed
  Grace order 3: packed
  Tony  order 1: packed
  Tony  order 2: there is nothing in the order, at attempt 1
  Tony  order 3: packed
  dead letter: there is nothing in the order

closing report:
  warehouse 8 acknowledged, 1 retried, 1 dead-lettered
  audit     9 acknowledged, 0 retried, 0 dead-lettered
  operators 1 acknowledged, 0 retried, 0 dead-lettered

positions:
  partition 0: 3 messages, lag of warehouse 0, of audit 0
  partition 1: 3 messages, lag of warehouse 0, of audit 0
  partition 2: 3 messages, lag of warehouse 0, of audit 0
";
    let (topic, rest) = printed(&output);
    assert_eq!(rest, expected);

    let kafka = Kafka::builder(&brokers).build().unwrap();
    for topic in [topic.to_owned(), format!("{topic}.dlq")] {
        // The brokers learn of it one after the other.
        let gone = async {
            while kafka.partitions(&topic).await.is_ok() {
                tokio::task::yield_now().await;
            }
            kafka.partitions(&topic).await.unwrap_err().kind()
        };
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        assert_eq!(gone.expect("it is deleted"), ErrorKind::NotFound);
    }
}

#[test]
fn the_brokers_may_be_given_as_an_argument() {
    let brokers = Service::Kafka.address().unwrap();
    let mut program = program();
    let output = program.args(["--brokers", &brokers]).output().unwrap();
    let (_, rest) = printed(&output);
    assert!(rest.starts_with("published 9 orders\n"), "{rest}");
}

#[test]
fn without_brokers_it_says_what_to_do() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: it is not said where Kafka is; set STREAMS_KAFKA_BROKERS"));
    for command in [
        "cargo xtask services up kafka",
        "docker compose up --wait kafka",
    ] {
        assert!(error.contains(command), "{error}");
    }

    let output = program().arg("--fast").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = "error: unknown argument `--fast`; the only one is --brokers HOST:PORT\n";
    assert_eq!(text(&output.stderr), error);
}
