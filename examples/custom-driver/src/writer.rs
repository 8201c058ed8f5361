//! Writing: a batch may go to many streams, and each message fails or succeeds by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use streams_core::{
    Capabilities, Error, ErrorKind, Message, Result, StreamName, WriteError, Writer, async_trait,
};

use crate::stream::Stream;
use crate::{CAPABILITIES, DRIVER, LARGEST_MESSAGE};

#[derive(Debug)]
pub(crate) struct DirectoryWriter {
    root: PathBuf,
    closed: AtomicBool,
}

impl DirectoryWriter {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            closed: AtomicBool::new(false),
        }
    }

    fn append(&self, stream: &StreamName, messages: &[&Message]) -> Result<()> {
        Stream::open(&self.root, stream)?.append(messages)
    }
}

fn too_large(message: &Message) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "the message has {} bytes, {LARGEST_MESSAGE} are allowed; split it",
            message.data().len()
        ),
    )
    .operation("write")
    .driver(DRIVER)
    .with("stream", message.stream())
}

#[async_trait]
impl Writer for DirectoryWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(WriteError::all(batch.len(), || Error::closed("the writer")));
        }
        let mut failures = Vec::new();
        let mut by_stream: BTreeMap<&StreamName, Vec<usize>> = BTreeMap::new();
        for (index, message) in batch.iter().enumerate() {
            if message.data().len() > LARGEST_MESSAGE {
                failures.push((index, too_large(message)));
            } else {
                by_stream.entry(message.stream()).or_default().push(index);
            }
        }
        for (stream, indices) in by_stream {
            let messages: Vec<_> = indices.iter().map(|index| &batch[*index]).collect();
            if let Err(error) = self.append(stream, &messages) {
                // Those for other streams may still succeed: name exactly those that have not.
                let each = || Error::new(error.kind(), error.to_string());
                failures.extend(indices.into_iter().map(|index| (index, each())));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(()) // Nothing waits: what `write` has confirmed is in its file.
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }
}
