//! What the workspace needs to be built, beside Rust.

use std::process::Command;

use super::{debian, program};
use crate::Result;

/// Installs what the C library of Kafka's driver is built with, where it is missing.
///
/// # Errors
/// When something is missing and cannot be installed; the error has the command to do so.
pub fn install_build_tools() -> Result {
    let has = |name: &'static str| move || program(name).is_some();
    let finds = |library: &'static str| {
        move || {
            let mut find = Command::new("pkg-config");
            let found = find.args(["--exists", library]).status();
            found.is_ok_and(|status| status.success())
        }
    };
    debian::require_package("pkg-config", has("pkg-config"))?;
    debian::require_all(&[
        ("gcc", &has("cc")),
        ("g++", &has("c++")),
        ("make", &has("make")),
        ("libssl-dev", &finds("openssl")),
        ("zlib1g-dev", &finds("zlib")),
    ])
}
