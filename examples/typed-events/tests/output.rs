//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_typed-events"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let expected = "\
registered:
  PaymentMade version 1 on payment.made as application/x-google-protobuf
  UserCreated version 2 on user.created as application/json

published:
user 1 is Ada, header tenant=acme
user 1 paid 1250 cents, in 5 bytes

bad data, then good:
dead letter bad-1: decode: the data is not this event as JSON: invalid type: string \"two\", \
expected u64 at line 1 column 16 (event=UserCreated, stream=user.created, id=bad-1)
user 2 is Grace, header tenant=acme
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
