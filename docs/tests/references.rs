//! What the Markdown files name, exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files whose links are followed.
const FILES: [&str; 13] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/coming-from-go.md",
    "docs/performance.md",
    "docs/writing-a-driver.md",
    "drivers/chanbuf/README.md",
    "drivers/kafka/README.md",
    "drivers/sql/README.md",
    "middleware/README.md",
    "relay/README.md",
    "services/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for file in FILES {
        let text = without_code(&read(file));
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root().join(file),
                path => root().join(file).parent().unwrap().join(path),
            };
            let found = match anchor {
                "" => target.exists(),
                anchor => {
                    fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor))
                }
            };
            if !found {
                broken.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The architecture names files, tests and cases. Each paragraph is checked for itself: a test is in
/// one of the files that are named with it.
#[test]
fn what_the_architecture_names_exists() {
    let text = without_code(&read("docs/architecture.md"));
    let cases: BTreeSet<_> = streams_testkit::cases()
        .iter()
        .map(|case| case.name)
        .collect();
    let mut missing = Vec::new();
    for paragraph in text.split("\n\n") {
        let names: Vec<_> = paragraph.split('`').skip(1).step_by(2).collect();
        let paths: Vec<_> = names.iter().filter(|name| is_path(name)).collect();
        let code: String = paths
            .iter()
            .filter_map(|path| find(path))
            .filter(|path| path.is_file())
            .map(read)
            .collect();
        let guards = paragraph
            .split_once("Guarded by")
            .map_or("", |(_, guards)| guards);
        for name in &names {
            let found = if let Some(case) = name.strip_prefix("kit: ") {
                cases.contains(case)
            } else if is_path(name) {
                find(name).is_some()
            } else if guards.contains(name) && name.matches('_').count() > 1 {
                let is_function = |end| code.contains(&format!("fn {name}{end}"));
                name.contains(':') || is_function('(') || is_function('<')
            } else {
                true
            };
            if !found {
                missing.push((*name).to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

fn is_path(name: &str) -> bool {
    name.ends_with(".rs") || name.ends_with('/')
}

/// A path of the text, from the root or from the core's sources.
fn find(path: &str) -> Option<PathBuf> {
    [
        root().join(path),
        root().join("streams-core/src").join(path),
    ]
    .into_iter()
    .find(|path| path.exists())
}

fn without_code(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The anchors that a file's headings make.
fn anchors(text: &str) -> BTreeSet<String> {
    let without = without_code(text);
    let headings = without.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
