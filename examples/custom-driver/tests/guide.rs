//! The guide `docs/writing-a-driver.md` shows the code of this crate, word for word.

use std::fs;
use std::path::{Path, PathBuf};

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Rust blocks, each as the pieces between its empty lines.
fn snippets(guide: &str) -> Vec<&str> {
    let blocks = guide.split("```rust\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    blocks.flat_map(|block| block.split("\n\n")).collect()
}

/// Without indentation, so that a method stands in the guide as in its `impl`.
fn flat(code: &str) -> String {
    code.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

fn sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |folder: &str| fs::read_dir(root.join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = files("src")
        .chain(files("tests"))
        .map(|entry| entry.unwrap().path())
        .collect();
    // This file must not vouch for itself.
    paths.retain(|path| !path.ends_with("guide.rs"));
    paths.iter().map(|path| flat(&read(path)) + "\n").collect()
}

#[test]
fn every_snippet_is_in_the_sources() {
    let (guide, sources) = (read("../../docs/writing-a-driver.md"), sources());
    let snippets = snippets(&guide);
    assert!(
        snippets.len() > 20,
        "only {} snippets were found in the guide",
        snippets.len()
    );
    for snippet in snippets {
        assert!(
            sources.contains(&flat(snippet)),
            "this is in the guide and not in the sources:\n{snippet}"
        );
    }
}

#[test]
fn a_snippet_that_differs_is_found() {
    assert!(!sources().contains(&flat("fn encode(message: &Message) -> String {")));
}
