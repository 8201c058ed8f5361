//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_delayed"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (handled, said): (Vec<_>, Vec<_>) =
        stdout.lines().partition(|line| line.starts_with("handled"));
    // None is too early, and the order is that of the due times.
    assert_eq!(
        handled,
        [
            "handled: water boils, at once",
            "handled: tea is steeping, after 50 ms",
            "handled: tea is ready, at its time",
        ]
    );
    assert_eq!(
        said,
        [
            "coffee is listed: true",
            "cancelled coffee: true",
            "cancelled it again: false",
            "acknowledged: 3"
        ]
    );
}
