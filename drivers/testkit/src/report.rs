//! What a run came to.

use std::fmt;
use std::time::Duration;

use streams_core::Capabilities;

/// What one case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The driver keeps its promise.
    Passed,
    /// It does not; this is why.
    Failed(String),
    /// The driver makes no such promise, or the harness has no means to check it: this is missing.
    NotApplicable(String),
}

/// One case's line.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case.
    pub case: &'static str,
    /// What it came to.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// What a run came to, case by case in the kit's order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The driver, as the harness names it.
    pub driver: String,
    /// What the driver says it can do.
    pub capabilities: Capabilities,
    /// The cases.
    pub cases: Vec<CaseReport>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// The names of the cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        self.cases
            .iter()
            .filter(|case| matches!(case.verdict, Verdict::Failed(_)))
            .map(|case| case.case)
    }

    /// The names of the cases that passed.
    pub fn passed(&self) -> impl Iterator<Item = &'static str> {
        self.cases
            .iter()
            .filter(|case| case.verdict == Verdict::Passed)
            .map(|case| case.case)
    }

    /// Checks that every case passed that applies, and that one did.
    ///
    /// # Panics
    /// With the failed cases and their reasons, unless so.
    pub fn assert_passed(&self) {
        let failed: Vec<_> = self
            .cases
            .iter()
            .filter_map(|case| match &case.verdict {
                Verdict::Failed(reason) => Some(format!("{}: {reason}", case.case)),
                Verdict::Passed | Verdict::NotApplicable(_) => None,
            })
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {} cases failed on {}:\n  {}",
            failed.len(),
            self.cases.len(),
            self.driver,
            failed.join("\n  ")
        );
        assert!(
            self.passed().next().is_some(),
            "no case ran on {}; see `STREAMS_KIT_CASE` for the filter",
            self.driver
        );
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted: fn(&Verdict) -> bool| {
            self.cases
                .iter()
                .filter(|case| wanted(&case.verdict))
                .count()
        };
        writeln!(
            f,
            "{}: {} passed, {} failed, {} not applicable, in {:.1} s",
            self.driver,
            count(|v| matches!(v, Verdict::Passed)),
            count(|v| matches!(v, Verdict::Failed(_))),
            count(|v| matches!(v, Verdict::NotApplicable(_))),
            self.took.as_secs_f64(),
        )?;
        let width = self
            .cases
            .iter()
            .map(|case| case.case.len())
            .max()
            .unwrap_or(0);
        for case in &self.cases {
            let (word, note) = match &case.verdict {
                Verdict::Passed => ("passed", format!("{:.2} s", case.took.as_secs_f64())),
                Verdict::Failed(reason) => ("FAILED", reason.clone()),
                Verdict::NotApplicable(missing) => ("n/a   ", format!("needs {missing}")),
            };
            writeln!(f, "  {word}  {:width$}  {note}", case.case)?;
        }
        Ok(())
    }
}
