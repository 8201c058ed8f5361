//! Runs the program and reads what it prints.

use std::process::Command;

use streams_services::Service;

const VARIABLE: &str = "STREAMS_SNS_ENDPOINT";

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sns-sqs-fanout"));
    program.env_remove(VARIABLE);
    program
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn prints_this() {
    let endpoint = Service::Moto.address().unwrap();
    let output = program().env(VARIABLE, endpoint).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (first, rest) = text(&output.stdout).split_once('\n').unwrap();
    assert!(first.starts_with("topic order.placed."), "{first}");
    let expected = "\
published 4 orders

warehouse:
  Ada    10
  Blaise 20
  Luca   30
  Tony   40

audit:
  Ada    10
  Blaise 20
  Luca   30
  Tony   40

export:
  Blaise 20
  Luca   30
";
    assert_eq!(rest, expected);
}

#[test]
fn without_a_server_it_says_what_to_do() {
    let output = program().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: it is not said where SNS is; set STREAMS_SNS_ENDPOINT"));
    for command in [
        "cargo xtask services up moto",
        "docker compose up --wait moto",
    ] {
        assert!(error.contains(command), "{error}");
    }

    let output = program().arg("--fast").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = "error: unknown argument `--fast`; the only one is --aws\n";
    assert_eq!(text(&output.stderr), error);
}
