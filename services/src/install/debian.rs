//! Programs and libraries from Debian, or a system made from it.

use std::path::PathBuf;
use std::process::Command;

use super::{cache, lock, program, progress, run};
use crate::{Error, Result};

/// How missing packages are installed.
const INSTALL: [&str; 3] = ["install", "-y", "--no-install-recommends"];

/// Where the program is; `package` is installed if it is nowhere.
pub(crate) fn require(name: &str, package: &str) -> Result<PathBuf> {
    require_package(package, || program(name).is_some())?;
    program(name).ok_or_else(|| Error::new(format!("package {package} has no program `{name}`")))
}

/// Installs the package unless what is wanted of it is here.
pub(crate) fn require_package(package: &str, is_here: impl Fn() -> bool) -> Result {
    require_all(&[(package, &is_here)])
}

/// Installs the packages of which the thing wanted is not here, all at once.
pub(crate) fn require_all(wanted: &[(&str, &dyn Fn() -> bool)]) -> Result {
    let missing = || -> Vec<&str> {
        let missing = wanted.iter().filter(|(_, is_here)| !is_here());
        missing.map(|(package, _)| *package).collect()
    };
    if missing().is_empty() {
        return Ok(());
    }
    // Another than that of downloads: one of those may find that it needs a package.
    let _lock = lock(&cache()?, "lock-packages")?;
    let packages = missing(); // another process may have been faster
    install(&packages).map_err(|error| {
        let (options, packages) = (INSTALL.join(" "), packages.join(" "));
        Error::new(format!(
            "not installed: {packages}. Install with: apt-get {options} {packages}\n{error}"
        ))
    })
}

fn install(packages: &[&str]) -> Result {
    if packages.is_empty() {
        return Ok(());
    }
    if !rustix::process::getuid().is_root() {
        return Err(Error::new("(not done here: that needs root)"));
    }
    progress(&format!("installing {}", packages.join(" ")));
    let install = || run(apt_get().args(INSTALL).args(packages)).map(drop);
    // The list of packages may be missing, or too old.
    install().or_else(|_| {
        run(apt_get().arg("update"))?;
        install()
    })
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

#[cfg(test)]
mod tests {
    use super::super::kept;
    use super::*;

    #[test]
    fn what_is_here_is_not_installed() {
        let shell = require("sh", "no-such-package").unwrap();
        assert!(shell.ends_with("sh"), "{shell:?}");
    }

    #[test]
    fn a_download_may_need_a_package() {
        let needs = |_: &std::path::Path| require("no-such-program", "no-such-package").map(drop);
        kept("nothing", "needs a package", needs).unwrap_err();
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_the_command() {
        let error = require("no-such-program", "no-such-package").unwrap_err();
        let command = "apt-get install -y --no-install-recommends no-such-package\n";
        assert!(error.to_string().contains(command), "{error}");
    }
}
