//! A stream's directory: one file per message, and a file that says how many there are.

use std::fs::{self, File};
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use streams_core::{Error, ErrorKind, Message, Result, StreamName};

use crate::DRIVER;
use crate::error::{damaged, file_error};
use crate::message;

/// What may stand in a file name as it is. Dots may not, so that no name is `..`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The directory for a name; most file systems take 255 bytes.
pub(crate) fn encode_name(name: &str) -> Result<String> {
    let encoded = utf8_percent_encode(name, PLAIN).to_string();
    if encoded.len() > 255 {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            "the name is too long for a directory; use at most 255 bytes of letters, digits, `-` and `_`",
        )
        .driver(DRIVER)
        .with("name", name));
    }
    Ok(encoded)
}

/// Puts a file in the place of another, in one step.
pub(crate) fn replace(operation: &'static str, path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| file_error(operation, path, error))
}

/// Holds a lock until it is dropped, also by the death of the process.
pub(crate) fn lock(operation: &'static str, path: &Path) -> Result<File> {
    let locked = File::create(path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|error| file_error(operation, path, error))
}

#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) path: PathBuf,
}

impl Stream {
    /// Opens a stream, and creates it if need be.
    pub(crate) fn open(root: &Path, name: &StreamName) -> Result<Self> {
        let path = root.join(encode_name(name.as_str())?);
        for part in ["messages", "groups"] {
            fs::create_dir_all(path.join(part))
                .map_err(|error| file_error("open", &path, error))?;
        }
        Ok(Self {
            name: name.clone(),
            path,
        })
    }

    fn message_path(&self, sequence: u64) -> PathBuf {
        self.path.join("messages").join(format!("{sequence:020}"))
    }

    /// How many messages are written, and so the number of the next.
    pub(crate) fn end(&self) -> Result<u64> {
        let path = self.path.join("end");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| damaged("read", &path, error))
            }
            Err(error) if error.kind() == NotFound => Ok(0),
            Err(error) => Err(file_error("read", &path, error)),
        }
    }

    /// Adds messages. A reader sees none of them before all are there.
    pub(crate) fn append(&self, messages: &[&Message]) -> Result<()> {
        let _lock = lock("write", &self.path.join("write.lock"))?;
        let end = self.end()?;
        for (sequence, message) in (end..).zip(messages) {
            let path = self.message_path(sequence);
            fs::write(&path, message::encode(message))
                .map_err(|error| file_error("write", &path, error))?;
        }
        let end = end + messages.len() as u64;
        replace("write", &self.path.join("end"), end.to_string().as_bytes())
    }

    /// One message.
    pub(crate) fn message(&self, sequence: u64) -> Result<Message> {
        let path = self.message_path(sequence);
        let file = fs::read(&path).map_err(|error| file_error("receive", &path, error))?;
        message::decode(&self.name, sequence, &file)
    }
}
