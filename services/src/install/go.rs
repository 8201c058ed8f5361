//! Programs in Go, for tests beside libraries in that language.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{debian, kept, run};
use crate::{Error, Result};

/// What is used where the machine has an older one, as Debian 12 does, or none.
const TOOLCHAIN: &str = "1.24.4";

/// The oldest that builds all of them.
const OLDEST: (u32, u32) = (1, 24);

/// Builds the Go program in `source`, a folder with `go.mod`, `go.sum` and `main.go`, unless that was done
/// before; returns where it is. Go is installed where it is missing or too old.
///
/// # Errors
/// When Go cannot be installed, or the program not be built, with what the compiler says.
pub fn go_program(name: &str, source: &Path) -> Result<PathBuf> {
    let mut recipe = String::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        let file = source.join(file);
        recipe += &fs::read_to_string(&file).map_err(Error::doing(file.display()))?;
    }
    // Nothing is installed for what is built already.
    let folder = match super::find_kept(name, &recipe)? {
        Some(folder) => folder,
        None => {
            let go = install_go()?;
            kept(name, &recipe, |folder| {
                build(&go, source, &folder.join(name))
            })?
        }
    };
    Ok(folder.join(name))
}

fn build(go: &Path, source: &Path, program: &Path) -> Result {
    // Tests that go by time run beside it.
    let mut build = Command::new("nice");
    build
        .args(["-n", "10"])
        .arg(go)
        .current_dir(source)
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-o"])
        .arg(program);
    // It would be that of another compiler.
    build.env_remove("GOROOT");
    run(&mut build).map(drop)
}

/// The compiler: that of the machine, or one that an older compiler fetches as the module it is
/// published as.
fn install_go() -> Result<PathBuf> {
    let go = debian::require("go", "golang-go")?;
    if version(&go)? >= OLDEST {
        return Ok(go);
    }
    let mut ask = Command::new(&go);
    let target = run(ask.args(["env", "GOOS", "GOARCH"]))?;
    let target = target.split_whitespace().collect::<Vec<_>>().join("-");
    let module = format!("golang.org/toolchain@v0.0.1-go{TOOLCHAIN}.{target}");
    let folder = kept("go", &module, |folder| {
        let mut download = Command::new(&go);
        download
            .current_dir(folder)
            .env("GOMODCACHE", folder)
            .env("GOFLAGS", "-modcacherw")
            .args(["mod", "download", &module]);
        run(&mut download)?;
        let archive = folder.join("cache");
        fs::remove_dir_all(&archive).map_err(Error::doing(archive.display()))?;
        // Files of a module are never programs.
        let folder = folder.join(&module);
        make_executable(&folder.join("bin"))?;
        make_executable(&folder.join("pkg/tool").join(target.replace('-', "_")))
    })?;
    Ok(folder.join(module).join("bin/go"))
}

fn make_executable(folder: &Path) -> Result {
    let failed = || Error::doing(folder.display());
    for entry in fs::read_dir(folder).map_err(failed())? {
        let file = entry.map_err(failed())?.path();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).map_err(failed())?;
    }
    Ok(())
}

fn version(go: &Path) -> Result<(u32, u32)> {
    let mut ask = Command::new(go);
    // Of this very one, whatever a project asks for.
    let answer = run(ask.env("GOTOOLCHAIN", "local").arg("version"))?;
    parse(&answer).ok_or_else(|| Error::new(format!("`go version` says `{}`", answer.trim())))
}

/// The version in `go version go1.24.4 linux/amd64`.
fn parse(answer: &str) -> Option<(u32, u32)> {
    let version = answer.split_whitespace().nth(2)?.strip_prefix("go")?;
    let digits = |text: &str| -> String { text.chars().take_while(char::is_ascii_digit).collect() };
    let mut numbers = version.split('.').map(|text| digits(text).parse());
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_go_is_read() {
        assert_eq!(parse("go version go1.19.8 linux/amd64\n"), Some((1, 19)));
        assert_eq!(parse("go version go1.26rc1 linux/arm64"), Some((1, 26)));
        assert_eq!(parse("go version devel"), None);
        assert!(parse("go version go1.9 linux/amd64") < Some(OLDEST));
    }
}
