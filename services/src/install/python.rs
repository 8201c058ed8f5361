//! Servers in Python, from PyPI, each in a virtual environment of its own.

use std::path::PathBuf;
use std::process::Command;

use super::{debian, kept, run};
use crate::Result;

/// The folder of the programs of an environment with `requirements` (as `pip install` takes them).
pub(crate) fn environment(name: &str, requirements: &[&str]) -> Result<PathBuf> {
    let folder = kept(name, &requirements.join(" "), |folder| {
        debian::require("python3", "python3-venv")?;
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(folder);
        run(&mut venv)?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--no-compile"])
            .args(requirements);
        run(&mut pip).map(drop)
    })?;
    Ok(folder.join("bin"))
}
