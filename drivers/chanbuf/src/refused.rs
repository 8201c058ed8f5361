//! Why messages are not written.

use streams_core::{Error, ErrorKind};

use crate::config::DRIVER;
use crate::stream::Stream;

/// Why messages were not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room.
    Full,
    /// Nobody holds the stream.
    Unheld,
    /// There is no room to schedule more.
    ScheduleFull,
    /// The writer was closed while it waited for room, and whoever closed it waits no longer.
    Closed,
}

impl Stream {
    /// What a writer is told.
    pub(crate) fn error(&self, refused: Refused) -> Error {
        let config = &self.config;
        let (kind, text, limit) = match refused {
            Refused::Unheld => (
                ErrorKind::NoSubscriberRegistered,
                "nobody holds this stream, so the message would be lost; subscribe or make the \
                 group before publishing, or set `retain` or `unheld` when building the broker",
                None,
            ),
            Refused::Full if self.name.is_dead_letters() => (
                ErrorKind::Full,
                "the stream holds as many dead letters as it may; read them, or raise \
                 `dead_letter_capacity`",
                Some(config.dead_letter_capacity),
            ),
            Refused::Full => (
                ErrorKind::Full,
                "the stream is full; try again when its groups have caught up, raise `capacity`, \
                 or set `Full::Wait`",
                Some(config.capacity),
            ),
            Refused::ScheduleFull => (
                ErrorKind::Full,
                "the stream holds as many scheduled messages as it may; try again later, or raise \
                 `max_scheduled`",
                Some(config.max_scheduled),
            ),
            Refused::Closed => return closed_writer().with("stream", &self.name),
        };
        let error = Error::new(kind, text)
            .driver(DRIVER)
            .with("stream", &self.name);
        match limit {
            Some(limit) => error.with("limit", limit),
            None => error,
        }
    }
}

pub(crate) fn closed_writer() -> Error {
    Error::closed("the writer").driver(DRIVER)
}
