//! What no compiler checks: nothing unfinished, nothing switched off, no file too long.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::workspace::{Member, root};

/// Lines a source file may have. A longer one does more than one thing.
const LONGEST_FILE: usize = 600;

/// What must not be in code, and why. In two parts each, so that this file is tidy itself.
const FORBIDDEN: [(&str, &str, &str); 4] = [
    ("todo", "!(", "finish it or leave it out"),
    ("unimplemented", "!(", "finish it or leave it out"),
    ("dbg", "!(", "remove it"),
    (
        "#[igno",
        "re",
        "a test that does not run checks nothing: run it or remove it",
    ),
];

/// Everything that is not as it should be.
pub(crate) fn check(members: &[Member]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for member in members {
        if member
            .description
            .as_deref()
            .is_none_or(|text| text.trim().is_empty())
        {
            problems.push(format!("{}/Cargo.toml: no description", member.folder));
        }
    }
    let root = root();
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    files.sort();
    for path in files {
        let name = path
            .strip_prefix(&root)
            .unwrap_or(&path)
            .display()
            .to_string();
        let text = fs::read_to_string(&path)?;
        problems.extend(check_file(&name, &text));
    }
    Ok(problems)
}

fn check_file(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let is_code = name.ends_with(".rs");
    for (index, line) in text.lines().enumerate() {
        let mut problem = |what: &str| problems.push(format!("{name}:{}: {what}", index + 1));
        if is_code && !line.trim_start().starts_with("//") {
            for (start, end, why) in FORBIDDEN {
                if line.contains(&format!("{start}{end}")) {
                    problem(&format!("`{start}{end}`: {why}"));
                }
            }
        }
        if let Some(info) = fence(line, is_code)
            && info
                .split([',', ' '])
                .any(|word| word.starts_with("ignore"))
        {
            problem(
                "a code block that is not compiled; make it compile, or use `no_run` or `text`",
            );
        }
    }
    let lines = text.lines().count();
    if is_code && lines > LONGEST_FILE {
        problems.push(format!(
            "{name}: {lines} lines; split it into files of at most {LONGEST_FILE}"
        ));
    }
    problems
}

/// The words behind the opening of a code block, in Markdown or in a doc comment.
fn fence(line: &str, is_code: bool) -> Option<&str> {
    let line = line.trim_start();
    let line = if is_code {
        line.strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))?
            .trim_start()
    } else {
        line
    };
    line.strip_prefix("```")
        .or_else(|| line.strip_prefix("~~~"))
        .map(str::trim)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, files)?;
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_found() {
        for (start, end, _) in FORBIDDEN {
            let code = format!("fn f() {{\n    {start}{end}\n}}\n");
            let problems = check_file("a.rs", &code);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with("a.rs:2: "), "{problems:?}");
            assert!(check_file("a.md", &code).is_empty());
            assert!(check_file("a.rs", &format!("/// # {start}{end}\n")).is_empty());
        }
    }

    #[test]
    fn code_blocks_that_do_not_compile_are_found() {
        let word = concat!("ign", "ore");
        for info in [
            word.to_owned(),
            format!("rust,{word}"),
            format!("{word}-windows"),
        ] {
            let doc = format!("    /// ```{info}\n    /// x\n    /// ```\n");
            assert_eq!(check_file("a.rs", &doc).len(), 1, "{doc}");
            let markdown = format!("```{info}\nx\n```\n");
            assert_eq!(check_file("a.md", &markdown).len(), 1, "{markdown}");
        }
        assert!(check_file("a.md", "```rust,no_run\nx\n```\nignore\n").is_empty());
    }

    #[test]
    fn long_files_are_found() {
        assert!(check_file("a.rs", &"x\n".repeat(LONGEST_FILE)).is_empty());
        assert_eq!(check_file("a.rs", &"x\n".repeat(LONGEST_FILE + 1)).len(), 1);
        assert!(check_file("a.md", &"x\n".repeat(LONGEST_FILE + 1)).is_empty());
    }
}
