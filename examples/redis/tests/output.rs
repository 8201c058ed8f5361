//! Runs the program and reads what it prints.

use std::process::Command;

use streams_services::Service;

const VARIABLE: &str = "STREAMS_REDIS_URL";

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_redis-example"));
    program.env_remove(VARIABLE);
    program
}

#[test]
fn prints_this() {
    let url = Service::Redis.address().unwrap();
    let output = program().env(VARIABLE, url).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expected = "\
published 3 orders

handled:
  Ada   packed
  Grace packed
  Grace the shelf is locked, at attempt 1
  Tony  there is nothing in the order, at attempt 1
  audit of a dead letter: there is nothing in the order

closing report:
  warehouse 2 acknowledged, 1 retried, 1 dead-lettered
  audit     4 acknowledged, 0 retried, 0 dead-lettered

replayed 3 orders
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn without_a_server_it_says_what_to_do() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: it is not said where Redis is; set STREAMS_REDIS_URL"));
}
