//! `cargo xtask docs`.

use std::fs;

use crate::Result;
use crate::run::{cargo, output, run};
use crate::workspace::root;

/// Parts of Markdown files that a program prints.
const GENERATED: [Generated; 1] = [Generated {
    file: "README.md",
    name: "guarantees",
    package: "streams-guarantees",
}];

struct Generated {
    file: &'static str,
    /// The part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
    name: &'static str,
    /// The crate of the program.
    package: &'static str,
}

/// Builds the documentation, and writes or checks its generated parts.
pub(crate) fn command(check: bool) -> Result {
    // Drivers are partly in C.
    streams_services::install_build_tools()?;
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
    run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    for part in GENERATED {
        let path = root().join(part.file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", part.file))?;
        let content = output(&mut cargo(["run", "--quiet", "--package", part.package]))?;
        let new = replace(&text, part.name, &content)
            .map_err(|error| format!("{}: {error}", part.file))?;
        if new == text {
            continue;
        }
        if check {
            return Err(format!(
                "{}: the part `{}` is out of date; run `cargo xtask docs`",
                part.file, part.name
            )
            .into());
        }
        fs::write(&path, new)?;
        eprintln!("{}: wrote the part `{}`", part.file, part.name);
    }
    Ok(())
}

/// The text with another content between the markers of `name`.
fn replace(text: &str, name: &str, content: &str) -> Result<String> {
    let start = format!("<!-- generated: {name} -->");
    let end = format!("<!-- end of {name} -->");
    let (before, rest) = text
        .split_once(&start)
        .ok_or_else(|| format!("no marker `{start}`"))?;
    let (_, after) = rest
        .split_once(&end)
        .ok_or_else(|| format!("no marker `{end}`"))?;
    Ok(format!(
        "{before}{start}\n\n{}\n\n{end}{after}",
        content.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- generated: x -->\nold\n<!-- end of x -->\nb\n";
        let new = replace(text, "x", "| new |\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- generated: x -->\n\n| new |\n\n<!-- end of x -->\nb\n"
        );
        assert_eq!(replace(&new, "x", "| new |\n").unwrap(), new);
        assert!(replace(text, "y", "").is_err());
    }
}
