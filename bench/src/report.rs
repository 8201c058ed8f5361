//! Figures, printed and checked.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use serde_json::json;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

impl Target {
    /// Whether a value is as it should be. What is not a number is not.
    #[must_use]
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// Collects the figures of a program as its arguments want it: `[--only NAME] [--json FILE]
/// [--check]`.
#[derive(Debug, Default)]
pub struct Report {
    only: Option<String>,
    json: Option<PathBuf>,
    check: bool,
    figures: Vec<serde_json::Value>,
    short: usize,
    failed: bool,
}

impl Report {
    /// What a benchmark's `main` does: measures as its arguments want it, and reports. The exit code is
    /// a failure for arguments it does not know, for what could not be measured or written, and where
    /// figures are to be checked and one is short.
    pub fn run(measure: impl FnOnce(&mut Self)) -> ExitCode {
        match Self::from_arguments() {
            Ok(mut report) => {
                measure(&mut report);
                report.finish()
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Measures a figure if it is wanted: its value, and a note that says what it is made of.
    pub fn measure(&mut self, name: &str, target: Target, measure: impl FnOnce() -> (f64, String)) {
        if self.wants(name) {
            let (value, note) = measure();
            self.figure(name, value, target, &note);
        }
    }

    /// Says that something could not be measured. The exit code is a failure then.
    pub fn fail(&mut self, error: &str) {
        eprintln!("error: {error}");
        self.failed = true;
    }

    fn from_arguments() -> Result<Self, lexopt::Error> {
        let mut report = Self::default();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("only") => report.only = Some(arguments.value()?.string()?),
                Long("json") => report.json = Some(arguments.value()?.into()),
                Long("check") => report.check = true,
                other => return Err(other.unexpected()),
            }
        }
        Ok(report)
    }

    /// Whether the figure `name` is wanted. Ask before measuring it.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(&**only))
    }

    /// Prints a figure: its name, value, target, and `ok` or `short`. The note says what it is made
    /// of.
    pub fn figure(&mut self, name: &str, value: f64, target: Target, note: &str) {
        let met = target.is_met(value);
        let verdict = if met { "ok" } else { "short" };
        let target = target.to_string();
        println!("{name:<42} {value:>10.3}  target {target:<8} {verdict:<5}  {note}");
        self.short += usize::from(!met);
        self.figures.push(json!({
            "name": name,
            "value": value,
            "target": target,
            "ok": met,
            "note": note,
        }));
    }

    fn finish(self) -> ExitCode {
        if let Some(path) = &self.json {
            let text = format!("{:#}\n", serde_json::Value::Array(self.figures));
            if let Err(error) = std::fs::write(path, text) {
                eprintln!("error: cannot write {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
        if self.failed {
            return ExitCode::FAILURE;
        }
        if self.check && self.short > 0 {
            eprintln!("error: {} figures are short of their targets", self.short);
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_met_at_their_edge() {
        assert!(Target::AtLeast(1.0).is_met(1.0) && !Target::AtLeast(1.0).is_met(0.999));
        assert!(Target::AtMost(1.0).is_met(1.0) && !Target::AtMost(1.0).is_met(1.001));
        assert!(!Target::AtLeast(0.0).is_met(f64::NAN) && !Target::AtMost(0.0).is_met(f64::NAN));
    }

    #[test]
    fn only_what_is_wanted_is_measured() {
        let report = Report {
            only: Some("one".to_owned()),
            ..Report::default()
        };
        assert!(report.wants("times/one-group") && !report.wants("times/three-groups"));
        assert!(Report::default().wants("x"));
    }
}
