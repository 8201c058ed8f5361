//! A driver from nothing: streams in a directory, one file per message, read by any number of
//! processes on one machine.
//!
//! It is the code of the guide `docs/writing-a-driver.md`, and a real driver: it passes the
//! conformance kit, with readers that are killed. It does not wait for the disk (a power failure
//! may lose messages) and keeps every message for ever.
//!
//! ```text
//! <root>/<stream>/end                    how many messages there are
//! <root>/<stream>/messages/<number>      one message: a line of JSON, then its data
//! <root>/<stream>/groups/<group>/state   how far the group is, and who is at what
//! <root>/<stream>/groups/<group>/members/<member>   locked for as long as the member lives
//! ```

mod error;
mod group;
mod message;
mod reader;
mod stream;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Capabilities, Driver, Order, Reader, Result, StartPositions, Writer};

use crate::error::file_error;
use crate::reader::DirectoryReader;
use crate::writer::DirectoryWriter;

/// The driver's name in errors and tables.
pub(crate) const DRIVER: &str = "directory";

/// The largest data of a message, in bytes.
const LARGEST_MESSAGE: usize = 1 << 20;

/// What it can do. The kit checks each of these.
static CAPABILITIES: Capabilities = Capabilities::none(DRIVER)
    .groups(true)
    .durable(true)
    .keeps_before_group(true)
    .order(Order::PerKey)
    .attempts(true)
    .delayed_redelivery(Some(Duration::MAX))
    .start(StartPositions {
        earliest: true,
        latest: true,
        position: true,
        time: true,
    })
    .creates_streams(true)
    .largest_message(Some(LARGEST_MESSAGE))
    .binary_headers(true);

/// Streams in a directory. Cheap to clone.
///
/// ```
/// use custom_driver::Directory;
/// use streams_core::{Driver, Message, Writer};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let root = tempfile::tempdir().unwrap();
/// # let path = root.path();
/// let driver = Directory::open(path)?;
/// let message = Message::builder("user.created").key("user-17").data("{}").build()?;
/// driver.writer().write(&[message]).await?;
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Directory {
    reader: Arc<DirectoryReader>,
    writer: Arc<DirectoryWriter>,
}

impl Directory {
    /// Opens a directory, and creates it if need be. Other processes may have it open too.
    ///
    /// # Errors
    /// [`Permission`](streams_core::ErrorKind::Permission) or
    /// [`Unavailable`](streams_core::ErrorKind::Unavailable) when it cannot be created.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        std::fs::create_dir_all(root).map_err(|error| file_error("open", root, error))?;
        Ok(Self {
            reader: Arc::new(DirectoryReader::new(root.to_owned())),
            writer: Arc::new(DirectoryWriter::new(root.to_owned())),
        })
    }
}

impl Driver for Directory {
    fn reader(&self) -> Arc<dyn Reader> {
        self.reader.clone()
    }

    fn writer(&self) -> Arc<dyn Writer> {
        self.writer.clone()
    }
}
