//! A stream's log.

use std::collections::VecDeque;

use streams_core::{Error, ErrorKind, Message, Result, StartFrom};

use crate::config::DRIVER;

/// The messages that some group has not read yet, and those kept for replay.
pub(crate) struct Log {
    pub(crate) messages: VecDeque<Message>,
    /// The offset of the first.
    pub(crate) base: u64,
}

impl Log {
    /// The offset the next message gets.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.messages.len() as u64
    }

    /// The message at an offset; taken out where `only_reader` says that nobody else wants it.
    pub(crate) fn read(&mut self, offset: u64, only_reader: bool) -> Option<Message> {
        if only_reader && offset == self.base {
            let message = self.messages.pop_front()?;
            self.base += 1;
            return Some(message);
        }
        let at = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.messages.get(at).cloned()
    }

    pub(crate) fn trim(&mut self, before: u64) {
        while self.base < before && self.messages.pop_front().is_some() {
            self.base += 1;
        }
    }

    /// Where a group starts. `dead_letters` says what these are, which a group reads from the first.
    pub(crate) fn position(&self, start: &StartFrom, dead_letters: bool) -> Result<u64> {
        let (base, end) = (self.base, self.end());
        Ok(match start {
            // What was kept for want of a reader is what the first reader wants.
            StartFrom::Default if dead_letters => base,
            StartFrom::Earliest => base,
            StartFrom::Default | StartFrom::Latest => end,
            StartFrom::Time(time) => {
                let at = self
                    .messages
                    .iter()
                    .position(|message| message.time() >= *time);
                at.map_or(end, |at| base + at as u64)
            }
            StartFrom::Position(text) => {
                let offset: u64 = text.parse().map_err(|_| {
                    Error::invalid_config("the start position is not an offset; use a whole number")
                        .driver(DRIVER)
                        .with("position", text)
                })?;
                if offset < base || offset > end {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the offset is not kept; this stream has {base} to {end}"),
                    )
                    .driver(DRIVER)
                    .with("position", offset));
                }
                offset
            }
            other => {
                return Err(Error::unsupported(
                    DRIVER,
                    format!("cannot start from {other:?}"),
                ));
            }
        })
    }
}
