//! The conformance kit on the example driver, with readers that are real processes.

use std::path::PathBuf;

use custom_driver::Directory;
use streams_core::{AnyDriver, Error, ErrorKind, Result, StreamName, async_trait};
use streams_testkit::{ForeignProducer, Harness, ReaderProcess, this_test};
use tempfile::TempDir;

const ROOT: &str = "CUSTOM_DRIVER_ROOT";

struct Files {
    root: PathBuf,
    /// Removes the directory at the end; a process the kit has started leaves it alone.
    _owner: Option<TempDir>,
}

impl Files {
    fn new() -> Self {
        if let Some(root) = std::env::var_os(ROOT) {
            return Self {
                root: root.into(),
                _owner: None,
            };
        }
        let owner = tempfile::tempdir().unwrap();
        Self {
            root: owner.path().to_owned(),
            _owner: Some(owner),
        }
    }
}

#[async_trait]
impl Harness for Files {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&Directory::open(&self.root)?))
    }

    fn reader_process(&self) -> Option<ReaderProcess> {
        Some(this_test("reader_process").env(ROOT, &self.root))
    }

    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        Some(self)
    }
}

/// Does nothing unless the kit has started it as a process of its own.
#[test]
fn reader_process() {
    ReaderProcess::serve(&Files::new());
}

#[async_trait]
impl ForeignProducer for Files {
    /// As a shell script would: a file with the next number, then the new count.
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()> {
        let path = self.root.join(stream.as_str());
        let end = path.join("end");
        let write = || {
            let count: u64 = std::fs::read_to_string(&end)?.parse().unwrap_or(0);
            std::fs::write(path.join(format!("messages/{count:020}")), data)?;
            std::fs::write(&end, (count + 1).to_string())
        };
        write().map_err(|error: std::io::Error| Error::new(ErrorKind::Other, error.to_string()))
    }
}

streams_testkit::conformance!(Files::new());
