//! One toolchain: the one the manifests promise, the one that is pinned, the one that runs.

use std::fs;
use std::process::Command;

use crate::Result;
use crate::run::output;
use crate::workspace::{Member, root};

/// What does not agree.
pub(crate) fn check(members: &[Member]) -> Result<Vec<String>> {
    let pinned = fs::read_to_string(root().join("rust-toolchain.toml"))?;
    let pinned = channel(&pinned).ok_or("rust-toolchain.toml names no channel")?;
    let running = output(Command::new("rustc").arg("--version").current_dir(root()))?;
    let running = running.split(' ').nth(1).unwrap_or_default();
    let mut problems = Vec::new();
    if !same(running, pinned) {
        problems.push(format!(
            "rustc is {running}, rust-toolchain.toml pins {pinned}"
        ));
    }
    for member in members {
        match &member.rust_version {
            None => problems.push(format!("{}: no rust-version; inherit the workspace's", member.name)),
            Some(version) if !same(version, pinned) => problems.push(format!(
                "{}: rust-version is {version}, rust-toolchain.toml pins {pinned}: what is promised \
                 is what is tested",
                member.name
            )),
            Some(_) => {}
        }
    }
    Ok(problems)
}

fn channel(toolchain: &str) -> Option<&str> {
    let line = toolchain
        .lines()
        .find_map(|line| line.trim().strip_prefix("channel"))?;
    Some(
        line.trim_start()
            .strip_prefix('=')?
            .trim()
            .trim_matches('"'),
    )
}

/// Whether two versions are one, `1.95` being `1.95.0`.
fn same(a: &str, b: &str) -> bool {
    let full = |version: &str| match version.split('.').count() {
        2 => format!("{version}.0"),
        _ => version.to_owned(),
    };
    full(a) == full(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_in_full() {
        assert!(same("1.95", "1.95.0") && same("1.95.1", "1.95.1"));
        assert!(!same("1.95", "1.95.1") && !same("1.9", "1.95"));
    }

    #[test]
    fn the_channel_is_found() {
        assert_eq!(
            channel("[toolchain]\nchannel = \"1.95.0\"\n"),
            Some("1.95.0")
        );
        assert_eq!(channel("[toolchain]\n"), None);
    }
}
