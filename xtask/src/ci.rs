//! `cargo xtask ci`.

use std::time::Instant;

use crate::run::{cargo, run};
use crate::workspace::{self, Member};
use crate::{Options, Result, bench, dependencies, docs, test, tidy, toolchain};

/// Runs every check, also after one has failed, and says at the end which did.
pub(crate) fn command() -> Result {
    let mut checks = Checks::default();
    checks.without_build();
    checks.check("build tools", || {
        Ok(streams_services::install_build_tools()?)
    });
    checks.check("format", || run(&mut cargo(["fmt", "--all", "--check"])));
    checks.check("clippy", || {
        let mut clippy = cargo(["clippy", "--workspace", "--all-targets", "--all-features"]);
        run(clippy.args(["--", "--deny", "warnings"]))
    });
    checks.check("features", || features(&workspace::members()?));
    checks.check("docs", || docs::command(true));
    let mut counts = test::Counts::default();
    checks.check("test", || {
        counts = test::command(&Options::default())?;
        Ok(())
    });
    checks.check("bench counts", || {
        // Counts are the same on every machine; times are not, and are never a gate here.
        bench::core(&Options {
            check: true,
            only: Some("counts".to_owned()),
            ..Options::default()
        })
    });
    checks.finish()?;
    println!("{counts}");
    Ok(())
}

/// Builds crates with a part of their features, for those whose manifests name such sets.
fn features(members: &[Member]) -> Result {
    for member in members {
        for set in &member.feature_sets {
            let mut clippy = cargo(["clippy", "--package", &member.name]);
            clippy.args(["--no-default-features", "--features", set]);
            run(clippy.args(["--", "--deny", "warnings"]))?;
        }
    }
    Ok(())
}

/// Runs the checks that need no build.
pub(crate) fn tidy() -> Result {
    let mut checks = Checks::default();
    checks.without_build();
    checks.finish()
}

#[derive(Default)]
struct Checks {
    failed: Vec<&'static str>,
}

impl Checks {
    fn without_build(&mut self) {
        let mut members = Vec::new();
        self.check("Cargo.lock", || {
            members = workspace::members()?;
            Ok(())
        });
        self.problems("toolchain", || toolchain::check(&members));
        self.problems("dependencies", || dependencies::check(&members));
        self.problems("tidy", || tidy::check(&members));
    }

    fn check(&mut self, name: &'static str, check: impl FnOnce() -> Result) {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = check();
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => eprintln!("== {name}: ok ({seconds:.1} s)"),
            Err(error) => {
                eprintln!("== {name}: FAILED ({seconds:.1} s)\n{error}");
                self.failed.push(name);
            }
        }
    }

    /// A check that lists all it finds.
    fn problems(&mut self, name: &'static str, check: impl FnOnce() -> Result<Vec<String>>) {
        self.check(name, || match &check()?[..] {
            [] => Ok(()),
            problems => Err(problems.join("\n").into()),
        });
    }

    fn finish(self) -> Result {
        match &self.failed[..] {
            [] => Ok(()),
            failed => Err(format!("failed: {}", failed.join(", ")).into()),
        }
    }
}
