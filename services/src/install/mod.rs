//! Putting on this machine what is missing: from Debian, Maven Central, PyPI and Go's modules.
//!
//! Downloads go to a folder that the next run finds again. Only one process installs at a time, and a
//! download gets its name when it is complete, so a run that was killed leaves nothing half done.

mod build;
pub(crate) mod debian;
mod go;
pub(crate) mod maven;
pub(crate) mod python;

pub use build::install_build_tools;
pub use go::go_program;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use crate::{Error, Result};

/// What unfinished downloads are called.
const DRAFT: &str = "draft-";

/// The folder called `name` among the downloads, which `make` fills if this `recipe` has not been
/// followed yet.
pub(crate) fn kept(
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result,
) -> Result<PathBuf> {
    kept_in(&cache()?, name, recipe, make)
}

/// The folder of [`kept`], if this `recipe` has been followed.
fn find_kept(name: &str, recipe: &str) -> Result<Option<PathBuf>> {
    let folder = folder_of(&cache()?, name, recipe);
    Ok(folder.exists().then_some(folder))
}

fn folder_of(cache: &Path, name: &str, recipe: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    cache.join(format!("{name}-{:016x}", hasher.finish()))
}

fn kept_in(
    cache: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result,
) -> Result<PathBuf> {
    let folder = folder_of(cache, name, recipe);
    if folder.exists() {
        return Ok(folder);
    }
    let _lock = lock(cache, "lock")?;
    if folder.exists() {
        return Ok(folder); // somebody else did it while this one waited
    }
    progress(&format!("installing {name} in {}", folder.display()));
    remove_drafts(cache);
    let draft = tempfile::Builder::new()
        .prefix(DRAFT)
        .tempdir_in(cache)
        .map_err(Error::doing(cache.display()))?;
    make(draft.path())?;
    fs::rename(draft.keep(), &folder).map_err(Error::doing(folder.display()))?;
    Ok(folder)
}

/// Those of a process that was killed: who asks has the lock, so nobody is at work.
fn remove_drafts(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// One process installs, the others wait. Ends with the file, also when the process dies.
fn lock(cache: &Path, name: &str) -> Result<File> {
    let path = cache.join(name);
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(Error::doing(path.display()))?;
    file.lock().map_err(Error::doing(path.display()))?;
    Ok(file)
}

/// Where downloads are kept.
fn cache() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let folder = variable("STREAMS_SERVICES_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("streams-services")))
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache/streams-services")))
        .ok_or_else(|| Error::new("no folder for downloads: set STREAMS_SERVICES_CACHE to one"))?;
    fs::create_dir_all(&folder).map_err(Error::doing(folder.display()))?;
    // Python's environments know the path they were made at.
    fs::canonicalize(&folder).map_err(Error::doing(folder.display()))
}

/// Where a program is. Those of administrators count: servers are often among them.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Runs it to its end and returns what it printed. The error has the command line and all output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(Error::doing(format!("cannot start `{line}`")))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    text += &String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("`{line}`: {}\n{text}", output.status)))
}

/// The command line, to be repeated by hand.
fn line(command: &Command) -> String {
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

/// Told to whoever waits. Standard output belongs to the program.
pub(crate) fn progress(what: &str) {
    use io::Write;
    let _ = writeln!(io::stderr(), "{what}");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn many_that_want_the_same_download_it_once() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = AtomicUsize::new(0);
        let want = || {
            kept_in(cache.path(), "x", "x 1", |folder| {
                downloads.fetch_add(1, Ordering::Relaxed);
                fs::write(folder.join("file"), "text").map_err(Error::doing("file"))
            })
            .unwrap()
        };
        thread::scope(|scope| {
            let wants: Vec<_> = (0..8).map(|_| scope.spawn(want)).collect();
            for folder in wants.into_iter().map(|want| want.join().unwrap()) {
                assert!(folder.join("file").exists());
            }
        });
        assert_eq!(downloads.into_inner(), 1);
    }

    #[test]
    fn what_failed_or_was_killed_leaves_nothing_and_another_recipe_is_another_folder() {
        let cache = tempfile::tempdir().unwrap();
        let cache = cache.path();
        fs::create_dir(cache.join("draft-of-a-dead-process")).unwrap();
        kept_in(cache, "x", "x 1", |_| Err(Error::new("no network"))).unwrap_err();
        let left: Vec<_> = fs::read_dir(cache).unwrap().collect();
        assert_eq!(left.len(), 1, "only the lock: {left:?}");
        let first = kept_in(cache, "x", "x 1", |_| Ok(())).unwrap();
        let second = kept_in(cache, "x", "x 2", |_| Ok(())).unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn what_fails_is_said_with_the_command_and_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let error = error.unwrap_err().to_string();
        for part in ["`sh -c", "exit status: 3", "out\n", "err\n"] {
            assert!(error.contains(part), "{error}");
        }
        let error = run(&mut Command::new("no-such-program")).unwrap_err();
        assert!(error.to_string().contains("`no-such-program`"), "{error}");
    }
}
