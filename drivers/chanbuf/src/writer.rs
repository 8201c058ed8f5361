//! Writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use streams_core::{
    Capabilities, Error, ErrorKind, Message, MessageId, Result, StreamName, WriteError, Writer,
    async_trait,
};

use crate::Broker;
use crate::config::{DRIVER, Full};

pub(crate) struct ChanbufWriter {
    broker: Arc<Broker>,
    closed: AtomicBool,
}

impl ChanbufWriter {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            closed: AtomicBool::new(false),
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What a message is refused for, whatever room there is.
    fn refusal(&self, message: &Message) -> Option<Error> {
        let size = message.data().len();
        if size == 0 {
            let error = Error::new(
                ErrorKind::EmptyMessage,
                "the message has no data; set it with `data`",
            );
            return Some(error.driver(DRIVER).with("stream", message.stream()));
        }
        let limit = self
            .broker
            .config
            .largest_message
            .filter(|limit| size > *limit)?;
        let error = Error::new(
            ErrorKind::TooLarge,
            "the data is larger than this broker takes; split it, or raise `largest_message`",
        );
        Some(error.driver(DRIVER).with("size", size).with("limit", limit))
    }

    fn full(&self, stream: &StreamName) -> Error {
        Error::new(
            ErrorKind::Full,
            "the stream is full; try again when its groups have caught up, raise `capacity`, or set \
             `Full::Wait`",
        )
        .driver(DRIVER)
        .with("stream", stream)
        .with("capacity", self.broker.config.capacity)
    }
}

#[async_trait]
impl Writer for ChanbufWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_closed() {
            return Err(WriteError::all(batch.len(), || {
                Error::closed("the writer").driver(DRIVER)
            }));
        }
        let mut failures = Vec::new();
        // Runs of messages that are written together: of one stream, none refused in between.
        let mut start = 0;
        while start < batch.len() {
            if let Some(error) = self.refusal(&batch[start]) {
                failures.push((start, error));
                start += 1;
                continue;
            }
            let name = batch[start].stream();
            let same =
                |message: &&Message| message.stream() == name && self.refusal(message).is_none();
            let end = start + batch[start..].iter().take_while(same).count();
            let stream = self.broker.stream(name);
            let run = &batch[start..end];
            let written = match self.broker.config.full {
                Full::Wait => stream.write_waiting(run).await,
                Full::Refuse => match stream.write(run) {
                    Ok(written) if written == run.len() => Ok(()),
                    Ok(written) => Err((written, self.full(name))),
                    Err(error) => Err((0, error)),
                },
            };
            if let Err((written, error)) = written {
                let kind = error.kind();
                let mut error = Some(error);
                failures.extend((start + written..end).map(|index| {
                    let again = || Error::new(kind, "as the message before it").driver(DRIVER);
                    (index, error.take().unwrap_or_else(again))
                }));
            }
            start = end;
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        let first = batch.first()?;
        let plain = |message: &Message| {
            message.stream() == first.stream() && self.refusal(message).is_none()
        };
        if self.is_closed() || !batch.iter().all(plain) {
            return None;
        }
        match self.broker.stream(first.stream()).try_write(batch) {
            Ok(true) => Some(Ok(())),
            Ok(false) | Err(_) => None,
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        let mut failures = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            let scheduled = if self.is_closed() {
                Err(Error::closed("the writer").driver(DRIVER))
            } else if let Some(error) = self.refusal(message) {
                Err(error)
            } else {
                self.broker
                    .stream(message.stream())
                    .schedule(message.clone(), due)
            };
            if let Err(error) = scheduled {
                failures.push((index, error));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        if self.is_closed() {
            return Err(Error::closed("the writer").driver(DRIVER));
        }
        Ok(self.broker.stream(stream).cancel(id))
    }

    /// Every write is complete when it returns.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.broker.capabilities
    }
}
