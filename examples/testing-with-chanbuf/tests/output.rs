//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_testing-with-chanbuf"))
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "invoice for order 1: 1000 cents\ninvoice for order 2: 2000 cents\n"
    );
}
