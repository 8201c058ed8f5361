//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn what_is_rolled_back_is_not_published() {
    let output = Command::new(env!("CARGO_BIN_EXE_outbox-sqlite"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let expected = "\
Ada pays 30
Grace pays 500
  rolled back: the balance is too small
Tony pays 20
in the outbox: 2 payments

receipt: Ada paid 30
receipt: Tony paid 20

relayed: 2 messages
in the outbox: 0
balance of Ada: 70
balance of Grace: 100
balance of Tony: 80
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
