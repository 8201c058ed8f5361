//! What cargo knows of the workspace.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Result;
use crate::run::{cargo, output};

/// The folder of the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A crate of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) folder: String,
    pub(crate) description: Option<String>,
    pub(crate) rust_version: Option<String>,
    /// Whether it is published.
    pub(crate) published: bool,
    pub(crate) dependencies: Vec<Dependency>,
    /// The servers its tests run against; an empty list if they start their own.
    pub(crate) services: Option<Vec<String>>,
    /// Sets of features that it is built with besides all of them.
    pub(crate) feature_sets: Vec<String>,
}

/// What a crate's manifest asks for.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Needed to build or run it, and not only to test it.
    pub(crate) needed: bool,
}

/// The workspace's crates. Fails when `Cargo.lock` is not what the manifests ask for.
pub(crate) fn members() -> Result<Vec<Member>> {
    let text = output(&mut cargo([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--locked",
    ]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let root = root();
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    packages
        .iter()
        .map(|package| member(package, &root))
        .collect()
}

fn member(package: &Value, root: &Path) -> Result<Member> {
    let text = |name: &str| package[name].as_str().map(str::to_owned);
    let manifest = text("manifest_path").ok_or("a package without a manifest")?;
    let folder = Path::new(&manifest)
        .parent()
        .and_then(|folder| folder.strip_prefix(root).ok())
        .ok_or_else(|| format!("{manifest} is outside of the workspace"))?;
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let list = |name: &str| {
        let names = package["metadata"]["streams"][name].as_array()?;
        let names = names.iter().filter_map(Value::as_str);
        Some(names.map(str::to_owned).collect())
    };
    Ok(Member {
        name: text("name").ok_or("a package without a name")?,
        folder: folder.to_string_lossy().into_owned(),
        description: text("description"),
        rust_version: text("rust_version"),
        published: package["publish"]
            .as_array()
            .is_none_or(|to| !to.is_empty()),
        dependencies: dependencies
            .map(|dependency| Dependency {
                name: dependency["name"].as_str().unwrap_or_default().to_owned(),
                needed: dependency["kind"].as_str() != Some("dev"),
            })
            .collect(),
        services: list("services"),
        feature_sets: list("feature-sets").unwrap_or_default(),
    })
}

/// The member a person means by `chanbuf`, `streams-chanbuf` or `drivers/chanbuf`.
pub(crate) fn find<'a>(members: &'a [Member], name: &str) -> Result<&'a Member> {
    let short = |member: &'a Member| member.name.strip_prefix("streams-").unwrap_or(&member.name);
    members
        .iter()
        .find(|member| [&*member.name, &*member.folder, short(member)].contains(&name))
        .ok_or_else(|| {
            let known: Vec<_> = members.iter().map(short).collect();
            format!("no crate `{name}`; there are {}", known.join(", ")).into()
        })
}
