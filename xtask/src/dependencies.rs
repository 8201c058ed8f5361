//! Who depends on whom: the core on no backend, drivers on the core alone, and nothing in secret.

use std::collections::BTreeSet;
use std::fs;

use crate::Result;
use crate::run::{cargo, output};
use crate::workspace::{Member, root};

/// Crates that talk to a backend, by their name's beginning.
const BACKENDS: [&str; 11] = [
    "async-nats",
    "aws-",
    "deadpool",
    "etcd",
    "fred",
    "lapin",
    "mysql",
    "rdkafka",
    "redis",
    "sqlx",
    "tokio-postgres",
];

/// Crates that build or look for C.
const C_BUILDERS: [&str; 5] = ["bindgen", "cc", "cmake", "pkg-config", "vcpkg"];

/// Bindings that are Rust all the way down.
const RUST_ONLY: [&str; 1] = ["linux-raw-sys"];

/// The program a newcomer builds first.
const QUICKSTART: &str = "quickstart";

/// Everything that is not as it should be.
pub(crate) fn check(members: &[Member]) -> Result<Vec<String>> {
    let mut problems = directions(members);
    for name in tree("streams-core", &["--all-features"])? {
        if BACKENDS.iter().any(|backend| name.starts_with(backend)) {
            problems.push(format!(
                "streams-core depends on `{name}`, which belongs in a driver"
            ));
        }
    }
    match members
        .iter()
        .find(|member| member.name.ends_with(QUICKSTART))
    {
        Some(quickstart) => {
            for name in tree(&quickstart.name, &[])?
                .iter()
                .filter(|name| builds_c(name))
            {
                problems.push(format!(
                    "{}: `{name}` builds C; a first look must need no more than Rust (find out why \
                     with `cargo tree -p {} -i {name}`)",
                    quickstart.name, quickstart.name
                ));
            }
        }
        None => problems.push(format!(
            "no crate `{QUICKSTART}` to check for dependencies on C"
        )),
    }
    match fs::read_to_string(root().join("README.md")) {
        Ok(readme) => problems.extend(undocumented(members, &readme)),
        Err(error) => problems.push(format!("README.md: {error}")),
    }
    Ok(problems)
}

/// Dependencies within the workspace that go the wrong way. Those of tests are free.
fn directions(members: &[Member]) -> Vec<String> {
    let names: BTreeSet<_> = members.iter().map(|member| &*member.name).collect();
    let mut problems = Vec::new();
    for member in members {
        let Some(allowed) = allowed(member) else {
            continue;
        };
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| dependency.needed)
        {
            let name = &*dependency.name;
            if names.contains(name) && !allowed.contains(&name) {
                problems.push(format!(
                    "{} depends on {name}; of this workspace it may need {}",
                    member.name,
                    if allowed.is_empty() {
                        "nothing".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                ));
            }
        }
    }
    problems
}

/// What a member may depend on within the workspace; `None` for programs, which may on all.
fn allowed(member: &Member) -> Option<&'static [&'static str]> {
    match &*member.folder {
        "streams-macros" => Some(&[]),
        "streams-core" => Some(&["streams-macros"]),
        "middleware" | "outbox" => Some(&["streams-core"]),
        folder if folder.starts_with("drivers/") => Some(&["streams-core", "streams-outbox"]),
        _ => None,
    }
}

/// Names of all that is built for `package`, on this platform.
fn tree(package: &str, more: &[&str]) -> Result<BTreeSet<String>> {
    let mut tree = cargo([
        "tree",
        "--locked",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]);
    tree.args(["--format", "{p}", "--package", package])
        .args(more);
    let names = output(&mut tree)?;
    let names = names.lines().filter_map(|line| line.split(' ').next());
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

fn builds_c(name: &str) -> bool {
    C_BUILDERS.contains(&name) || (name.ends_with("-sys") && !RUST_ONLY.contains(&name))
}

/// Dependencies of published crates that the README's table does not explain. A row explains what
/// its first cell names in backticks.
fn undocumented(members: &[Member], readme: &str) -> Vec<String> {
    let documented: BTreeSet<_> = readme
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.split('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let own: BTreeSet<_> = members.iter().map(|member| &*member.name).collect();
    let direct: BTreeSet<_> = members
        .iter()
        .filter(|member| member.published)
        .flat_map(|member| &member.dependencies)
        .filter(|dependency| dependency.needed)
        .map(|dependency| &*dependency.name)
        .collect();
    direct
        .into_iter()
        .filter(|name| !own.contains(name) && !documented.contains(name))
        .map(|name| format!("README.md: the dependency table has no row for `{name}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn member(name: &str, folder: &str, needed: &[&str], for_tests: &[&str]) -> Member {
        let dependency = |needed| {
            move |name: &&str| Dependency {
                name: (*name).to_owned(),
                needed,
            }
        };
        Member {
            name: name.to_owned(),
            folder: folder.to_owned(),
            published: true,
            dependencies: needed
                .iter()
                .map(dependency(true))
                .chain(for_tests.iter().map(dependency(false)))
                .collect(),
            ..Member::default()
        }
    }

    #[test]
    fn wrong_directions_are_found() {
        let core = member(
            "streams-core",
            "streams-core",
            &["bytes", "streams-kafka"],
            &[],
        );
        let kafka = member(
            "streams-kafka",
            "drivers/kafka",
            &["streams-core"],
            &["streams-redis"],
        );
        let redis = member("streams-redis", "drivers/redis", &["streams-kafka"], &[]);
        let relay = member(
            "streams-relay",
            "relay",
            &["streams-kafka", "streams-redis"],
            &[],
        );
        let problems = directions(&[core, kafka, redis, relay]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("streams-core depends on streams-kafka"));
        assert!(problems[1].starts_with("streams-redis depends on streams-kafka"));
    }

    #[test]
    fn c_is_recognised() {
        for name in ["cc", "cmake", "openssl-sys", "rdkafka-sys"] {
            assert!(builds_c(name), "{name}");
        }
        for name in ["ccadb", "linux-raw-sys", "sysinfo"] {
            assert!(!builds_c(name), "{name}");
        }
    }

    #[test]
    fn missing_rows_are_found() {
        let members = [member(
            "streams-core",
            "streams-core",
            &["bytes", "tokio", "serde"],
            &["x"],
        )];
        let readme = "| crate | why |\n| --- | --- |\n| `bytes`, `serde` | x `tokio` |\n`tokio`\n";
        let problems = undocumented(&members, readme);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("`tokio`"));
    }
}
