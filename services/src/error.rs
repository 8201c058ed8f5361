//! What goes wrong with servers.

use std::fmt;

/// Why a server could not be installed or started, and what to do about it.
///
/// `Debug` prints the same as `Display`: what a test unwraps is read by a person, and the tail of a
/// server's log has many lines.
pub struct Error {
    message: String,
    port_taken: bool,
}

/// The result of whatever concerns servers.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            port_taken: false,
        }
    }

    /// Another program was faster to take a port; with other ports it may go well.
    pub(crate) fn port_taken(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            port_taken: true,
        }
    }

    pub(crate) fn is_port_taken(&self) -> bool {
        self.port_taken
    }

    /// For `map_err`: says what was done when the error came.
    pub(crate) fn doing<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::new(format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
