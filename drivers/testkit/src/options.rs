//! How a run of the kit goes.

use std::time::Duration;

/// How much a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// All of it.
    #[default]
    Full,
    /// A tenth of the messages, for every day.
    Quick,
}

/// How a run of the kit goes.
///
/// ```
/// use streams_testkit::{RunOptions, Scale};
///
/// let options = RunOptions::from_env().scale(Scale::Quick).only(["order", "groups"]);
/// ```
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub(crate) scale: Scale,
    pub(crate) only: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) parallel: usize,
    pub(crate) print: bool,
}

impl RunOptions {
    /// Everything, at full scale: eight cases at a time, 60 s for each. Prints its report.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scale: Scale::Full,
            only: Vec::new(),
            timeout: Duration::from_secs(60),
            parallel: 8,
            print: true,
        }
    }

    /// As the environment says: `STREAMS_KIT_CASE` and `STREAMS_KIT_QUICK`.
    #[must_use]
    pub fn from_env() -> Self {
        let mut options = Self::new();
        if std::env::var("STREAMS_KIT_QUICK").is_ok_and(|value| !value.is_empty() && value != "0") {
            options.scale = Scale::Quick;
        }
        if let Ok(names) = std::env::var("STREAMS_KIT_CASE") {
            options.only = names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect();
            options.only.retain(|name| !name.is_empty());
        }
        options
    }

    /// Sets how much it does.
    #[must_use]
    pub fn scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// Runs only the cases whose name contains one of these.
    #[must_use]
    pub fn only<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.only = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how long one case may take; a few take up to three times that.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many cases run at the same time; at least one does.
    #[must_use]
    pub fn parallel(mut self, cases: usize) -> Self {
        self.parallel = cases.max(1);
        self
    }

    /// Turns printing the report on or off.
    #[must_use]
    pub fn print(mut self, print: bool) -> Self {
        self.print = print;
        self
    }

    pub(crate) fn takes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

impl Default for RunOptions {
    /// As the environment says.
    fn default() -> Self {
        Self::from_env()
    }
}
