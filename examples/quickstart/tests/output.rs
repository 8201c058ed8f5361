//! Runs the program and reads what it prints.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quickstart"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // From a thread of its own: a pipe holds less than some inputs.
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join();
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_demo_publishes_handles_and_reports() {
    let output = run(&[], b"");
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    for name in ["Ada", "Grace", "Edsger"] {
        assert!(stdout.contains(&format!("published to user.created: {name}\n")));
        assert!(stdout.contains(&format!(
            "handled by group mailer:  a welcome mail to {name}\n"
        )));
    }
    for user in 1..=3 {
        let line = format!("handled by group audit:   user {user} was created, attempt 1\n");
        assert!(stdout.contains(&line), "{stdout}");
    }
    let report = stdout.split_once("\nclosing report:\n").unwrap().1;
    assert_eq!(
        report,
        "  user.created handled by group mailer: 3\n  user.created handled by group audit: 3\n"
    );
}

#[test]
fn good_lines_are_handled_by_both_groups() {
    let output = run(&["--input", "-"], b"{\"a\":1}\n[2]\r\n\"three\"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let counts = "published          3\n\
                  handled by mailer  3\n\
                  handled by audit   3\n\
                  rejected           0\n\
                  time ";
    assert!(stdout.starts_with(counts), "{stdout}");
    let last = text(&output.stderr).lines().last();
    assert_eq!(
        last,
        Some("progress: 3 published, 3 handled by mailer, 3 by audit")
    );
}

#[test]
fn bad_lines_are_named_and_the_rest_goes_on() {
    let mut input = b"{\"a\":1}\n\nnot json\n{\"a\":\n\xff\n".to_vec();
    input.resize(input.len() + (300 << 10), b'x');
    input.extend(b"\n{\"last\":true}\n");
    let output = run(&["--input", "-"], &input);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("line 2: empty\n"), "{stderr}");
    assert!(
        stderr.contains("line 3: not JSON: expected ident at column 2\n"),
        "{stderr}"
    );
    assert!(
        stderr.contains("line 4: not JSON: EOF while parsing a value at column 5\n"),
        "{stderr}"
    );
    assert!(stderr.contains("line 5: not JSON: "), "{stderr}");
    assert!(stderr.contains("line 6: longer than 256 KiB\n"), "{stderr}");
    let counts = "published          2\n\
                  handled by mailer  2\n\
                  handled by audit   2\n\
                  rejected           5 (lines 2, 3, 4, 5, 6)\n";
    assert!(
        text(&output.stdout).starts_with(counts),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn many_lines_go_through_a_small_buffer() {
    let input: String = (0..50_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let output = run(&["--input", "-"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let counts = "published          50000\n\
                  handled by mailer  50000\n\
                  handled by audit   50000\n\
                  rejected           0\n";
    assert!(
        text(&output.stdout).starts_with(counts),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_missing_file_and_unknown_flags_say_what_to_do() {
    let output = run(&["--input", "no-such-file"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error: cannot open no-such-file: "));

    let output = run(&["--fast"], b"");
    assert_eq!(output.status.code(), Some(2));
    let error = "error: unknown argument `--fast`; the flags are --input FILE and --help\n";
    assert_eq!(text(&output.stderr), error);

    let output = run(&["--input"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--input needs a file"));

    let output = run(&["--help"], b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("exit code: 0  every line was handled"));
}
