//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_batch-handler"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let expected = "\
a batch of 4:
  sensor 1: stored, attempt 1
  sensor 2: dead letter
  sensor 3: row locked, again in 10 ms
  sensor 4: stored, attempt 1
a batch of 2:
  sensor 5: stored, attempt 1
  sensor 6: stored, attempt 1
a batch of 1:
  sensor 3: stored, attempt 2
measurement (store): 5 acknowledged, 1 retried, 1 dead-lettered;";
    assert!(stdout.starts_with(expected), "{stdout}");
}
