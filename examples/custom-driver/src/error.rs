//! What went wrong with a file, in the core's terms.

use std::io;
use std::path::Path;

use streams_core::{Error, ErrorKind};

use crate::DRIVER;

/// The error of a file operation: its kind says whether a retry may help, its text what to do.
pub(crate) fn file_error(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let (kind, advice) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            ErrorKind::Permission,
            "the directory may not be used; give this user the right to read and write it",
        ),
        io::ErrorKind::NotFound => (
            ErrorKind::NotFound,
            "a file is gone; leave the driver's directory to the driver",
        ),
        io::ErrorKind::StorageFull => (ErrorKind::Unavailable, "the disk is full; make room"),
        _ => (
            ErrorKind::Unavailable,
            "a file cannot be used right now; the directory must be on a local disk",
        ),
    };
    Error::new(kind, advice)
        .operation(operation)
        .driver(DRIVER)
        .with("path", path.display())
        .source(error)
}

/// The error of a file whose content is not the driver's.
pub(crate) fn damaged(operation: &'static str, path: &Path, error: serde_json::Error) -> Error {
    Error::new(
        ErrorKind::Codec,
        "a file is damaged; restore it, or remove the stream's directory to start over",
    )
    .operation(operation)
    .driver(DRIVER)
    .with("path", path.display())
    .source(error)
}
