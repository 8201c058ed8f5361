//! `cargo xtask test`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use streams_services::Service;

use crate::run::{cannot_start, cargo, echo, run};
use crate::workspace::Member;
use crate::{Options, Result, services, workspace};

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
    let members = workspace::members()?;
    let selected = Selection::new(&members, options)?;
    if selected.talks_to_servers {
        streams_services::install_build_tools()?;
    }
    run(cargo(["test", "--all-features", "--no-run"]).args(&selected.arguments))?;
    let mut test = cargo(["test", "--all-features", "--no-fail-fast"]);
    test.args(&selected.arguments);
    if options.quick {
        test.env("STREAMS_KIT_QUICK", "1")
            .env("STREAMS_MODEL_SCHEDULES", "1000");
    }
    // They end with this function, or with this process, whatever happens.
    let servers = services::start(&selected.services)?;
    for server in &servers {
        for variable in server.service().unset() {
            test.env(variable, server.address());
        }
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

/// What to run, and against what.
#[derive(Debug, PartialEq)]
struct Selection {
    /// Cargo's.
    arguments: Vec<String>,
    services: Vec<Service>,
    /// Clients of servers are partly in C.
    talks_to_servers: bool,
}

impl Selection {
    fn new(members: &[Member], options: &Options) -> Result<Self> {
        let mut arguments = Vec::new();
        let mut selected = match &options.only {
            Some(name) => vec![workspace::find(members, name)?],
            None => members.iter().collect(),
        };
        match &options.only {
            Some(_) => arguments.push(format!("--package={}", selected[0].name)),
            None => arguments.push("--workspace".to_owned()),
        }
        if options.quick {
            let (left_out, rest) = selected
                .into_iter()
                .partition(|member| member.services.is_some());
            selected = rest;
            match &options.only {
                Some(name) if selected.is_empty() => {
                    return Err(format!("{name} needs servers; leave out --quick").into());
                }
                _ => arguments.extend(exclude(&left_out)),
            }
        }
        Ok(Self {
            arguments,
            talks_to_servers: selected.iter().any(|member| member.services.is_some()),
            services: services::of(selected)?,
        })
    }
}

fn exclude(members: &[&Member]) -> Vec<String> {
    let exclude = |member: &&Member| format!("--exclude={}", member.name);
    members.iter().map(exclude).collect()
}

/// The worker pool's wake-ups under every order of events that shuttle comes up with. It replaces the
/// locks, so it is a build of its own, in a folder of its own.
fn shuttle(options: &Options) -> Command {
    let target = workspace::target().join("shuttle");
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
    // Tests that panic on purpose would bury what failed under theirs; `cargo test` gives backtraces.
    let mut child = command
        .env("RUST_BACKTRACE", "0")
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

    fn members() -> Vec<Member> {
        let member = |name: &str, services: Option<&[&str]>| Member {
            name: format!("streams-{name}"),
            services: services.map(|names| names.iter().map(ToString::to_string).collect()),
            ..Member::default()
        };
        vec![
            member("core", None),
            member("kafka", Some(&["kafka"])),
            member("relay", Some(&["postgres", "kafka"])),
            member("services", Some(&[])),
        ]
    }

    fn select(only: Option<&str>, quick: bool) -> Result<Selection> {
        let options = Options {
            only: only.map(str::to_owned),
            quick,
            ..Options::default()
        };
        Selection::new(&members(), &options)
    }

    #[test]
    fn everything_runs_with_all_servers_it_needs() {
        let all = select(None, false).unwrap();
        assert_eq!(all.arguments, ["--workspace"]);
        assert_eq!(all.services, [Service::Kafka, Service::Postgres]);
        assert!(all.talks_to_servers);
        let one = select(Some("kafka"), false).unwrap();
        assert_eq!(one.arguments, ["--package=streams-kafka"]);
        assert_eq!(one.services, [Service::Kafka]);
    }

    #[test]
    fn a_quick_run_needs_no_server() {
        let quick = select(None, true).unwrap();
        assert!(quick.services.is_empty() && !quick.talks_to_servers);
        let excluded = ["kafka", "relay", "services"];
        let excluded = excluded.map(|name| format!("--exclude=streams-{name}"));
        assert_eq!(quick.arguments[1..], excluded);
        let core = select(Some("core"), true).unwrap();
        assert_eq!(core.arguments, ["--package=streams-core"]);
        assert!(select(Some("kafka"), true).is_err());
    }

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
