//! A driver as one value: its reader and its writer.

use std::fmt;
use std::sync::Arc;

use crate::{Reader, Writer};

/// A reader and a writer of one backend. Cheap to clone; clones share connections.
pub trait Driver: Clone + Send + Sync + 'static {
    /// The reader.
    fn reader(&self) -> Arc<dyn Reader>;

    /// The writer.
    fn writer(&self) -> Arc<dyn Writer>;
}

/// A driver chosen at run time: by [URL](crate::DriverRegistry), or from any reader and writer.
#[derive(Clone)]
pub struct AnyDriver {
    reader: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
}

impl AnyDriver {
    /// From a reader and a writer, which may be of different backends.
    pub fn new(reader: Arc<dyn Reader>, writer: Arc<dyn Writer>) -> Self {
        Self { reader, writer }
    }

    /// Forgets which driver it is.
    pub fn from_driver(driver: &impl Driver) -> Self {
        Self::new(driver.reader(), driver.writer())
    }
}

impl Driver for AnyDriver {
    fn reader(&self) -> Arc<dyn Reader> {
        self.reader.clone()
    }

    fn writer(&self) -> Arc<dyn Writer> {
        self.writer.clone()
    }
}

impl fmt::Debug for AnyDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyDriver")
            .field("reader", &self.reader.capabilities().driver)
            .field("writer", &self.writer.capabilities().driver)
            .finish()
    }
}
