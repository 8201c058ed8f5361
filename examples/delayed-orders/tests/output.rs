//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_delayed-orders"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let expected = "\
order 1 is placed
order 2 is placed
5 minutes pass
order 1 is paid, the question is taken back: true
10 minutes pass
order 2 is not paid in time
order 2 is cancelled
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
