//! Runs the program and reads what it prints.

use std::process::Command;

#[test]
fn prints_this() {
    let output = Command::new(env!("CARGO_BIN_EXE_middleware-example"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let expected = "\
published: order A-1
order A-1: handled at attempt 1
published: order A-1
published: order A-2
order A-2: failed at attempt 1
order A-2: failed at attempt 2
order A-2: failed at attempt 3
dead letter: the warehouse does not answer, after 3 attempts
repaired; bringing it back
order A-2: handled at attempt 1
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    let log = String::from_utf8(output.stderr).unwrap();
    for said in [
        "a duplicate: it has been handled, and is acknowledged",
        "handling failed; it is tried again",
        "message given up: written to the dead letters",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}
