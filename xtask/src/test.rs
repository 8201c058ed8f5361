//! `cargo xtask test`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::run::{cannot_start, cargo, echo, run};
use crate::{Options, Result, workspace};

/// How many tests ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Builds everything once, runs it, and prints the sum on the last line.
pub(crate) fn command(options: &Options) -> Result<Counts> {
    // Drivers with a server get it here: installed if missing, started, and stopped at the end.
    let selection = match &options.only {
        Some(name) => vec![
            "--package".to_owned(),
            workspace::find(&workspace::members()?, name)?.name.clone(),
        ],
        None => vec!["--workspace".to_owned()],
    };
    run(cargo(["test", "--all-features", "--no-run"]).args(&selection))?;
    let mut test = cargo(["test", "--all-features", "--no-fail-fast"]);
    test.args(&selection);
    if options.quick {
        test.env("STREAMS_KIT_QUICK", "1")
            .env("STREAMS_MODEL_SCHEDULES", "1000");
    }
    let (mut counts, mut succeeded) = run_tests(&mut test)?;
    if matches!(
        options.only.as_deref(),
        None | Some("core" | "streams-core")
    ) {
        let (more, well) = run_tests(&mut shuttle(options))?;
        counts.passed += more.passed;
        counts.failed += more.failed;
        succeeded &= well;
    }
    println!("{counts}");
    match counts {
        Counts {
            passed: 0,
            failed: 0,
        } => Err("no test ran".into()),
        Counts { failed: 0, .. } if succeeded => Ok(counts),
        _ => Err("there are failed tests; see above".into()),
    }
}

/// The worker pool's wake-ups under every order of events that shuttle comes up with. It replaces the
/// locks, so it is a build of its own, in a folder of its own.
fn shuttle(options: &Options) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace::root().join("target"), PathBuf::from)
        .join("shuttle");
    let mut test = cargo(["test", "--package=streams-core", "--lib", "shuttle"]);
    test.env("RUSTFLAGS", "--cfg shuttle")
        .env("CARGO_TARGET_DIR", target);
    if options.quick {
        test.env("STREAMS_SHUTTLE_SCHEDULES", "500");
    }
    test
}

/// Runs it, shows what it prints and sums up its `test result:` lines.
fn run_tests(command: &mut Command) -> Result<(Counts, bool)> {
    echo(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(one) = parse(&line) {
                counts.passed += one.passed;
                counts.failed += one.failed;
            }
        }
    }
    Ok((counts, child.wait()?.success()))
}

/// The counts of `test result: ok. 3 passed; 0 failed; 0 ignored; ..`.
fn parse(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out";
        assert_eq!(
            parse(line),
            Some(Counts {
                passed: 12,
                failed: 3
            })
        );
        let line = "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
                    finished in 0.00s";
        assert_eq!(
            parse(line),
            Some(Counts {
                passed: 7,
                failed: 0
            })
        );
        assert_eq!(parse("running 3 tests"), None);
    }
}
