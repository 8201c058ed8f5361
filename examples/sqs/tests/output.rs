//! Runs the program and reads what it prints.

use std::process::Command;

use streams_services::Service;

const VARIABLE: &str = "STREAMS_ELASTICMQ_ENDPOINT";

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sqs"));
    program.env_remove(VARIABLE);
    program
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn prints_this() {
    let endpoint = Service::ElasticMq.address().unwrap();
    let output = program().env(VARIABLE, endpoint).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (first, rest) = text(&output.stdout).split_once('\n').unwrap();
    assert!(first.starts_with("queue order.placed."), "{first}");
    let expected = "\
published 9 orders

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
  Tony  order 2: packed
  brought back: there is nothing in the order
  Grace reminded when it was due

closing report:
  orders       9 acknowledged, 1 retried, 1 dead-lettered
  reminders    1 acknowledged, 0 retried, 0 dead-lettered
  dead letters 1 acknowledged, 0 retried, 0 dead-lettered
";
    assert_eq!(rest, expected);
}

#[test]
fn without_a_server_it_says_what_to_do() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with("error: it is not said where SQS is; set STREAMS_ELASTICMQ_ENDPOINT")
    );
    for command in [
        "cargo xtask services up elasticmq",
        "docker compose up --wait elasticmq",
    ] {
        assert!(error.contains(command), "{error}");
    }

    let output = program().arg("--fast").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = "error: unknown argument `--fast`; the only one is --aws\n";
    assert_eq!(text(&output.stderr), error);
}
