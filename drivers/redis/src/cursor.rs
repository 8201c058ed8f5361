//! Reading without a group, from a position that the reader itself keeps.

use std::time::Duration;

use redis::Cmd;
use streams_core::{Result, StreamName};
use tokio::time::Instant;

use crate::client::Link;
use crate::entry::EntryId;
use crate::error::error;
use crate::feed::{News, decode, query};
use crate::{reply, start};

/// How often a reader that finds nothing looks whether the stream has begun anew.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// The position of a reader without a group. It is always an id: `$`, said again with each read, would
/// pass over what comes between two reads.
#[derive(Debug)]
pub(crate) struct Cursor {
    key: String,
    after: EntryId,
    /// The highest id there was: `after` may lie ahead of it.
    known: EntryId,
    /// The last entry of a bounded read.
    until: Option<EntryId>,
    looked_back: Instant,
}

impl Cursor {
    pub(crate) fn new(key: String, after: EntryId, known: EntryId, until: Option<EntryId>) -> Self {
        Self {
            key,
            after,
            known,
            until,
            looked_back: Instant::now(),
        }
    }

    pub(crate) async fn look(
        &mut self,
        link: &Link,
        stream: &StreamName,
        most: usize,
        block: Duration,
    ) -> Result<Option<News>> {
        let since = Instant::now();
        if self.until.is_some_and(|until| self.after >= until) {
            return Ok(Some(News::End));
        }
        let mut read = Cmd::new();
        read.arg("XREAD").arg("COUNT").arg(most);
        if self.until.is_none() {
            let block = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
            read.arg("BLOCK").arg(block.max(1));
        }
        read.arg("STREAMS").arg(&self.key);
        read.arg(self.after.to_string());
        let failed = |e| error(e, "receive").with("stream", stream);
        let answer = query(link, &read).await.map_err(failed)?;
        let mut entries = reply::read(answer).map_err(failed)?;
        if let Some(until) = self.until {
            let all = entries.len();
            entries.retain(|(entry, _)| *entry <= until);
            if entries.is_empty() {
                // Either others were added behind the end, or what was left was removed.
                tracing::debug!(%stream, later = all, "a bounded read is over");
                return Ok(Some(News::End));
            }
        }
        let Some((last, _)) = entries.last() else {
            if since - self.looked_back >= LOOK_BACK {
                self.look_back(link, stream).await?;
            }
            return Ok(None);
        };
        (self.after, self.known) = (*last, *last);
        self.looked_back = since;
        let entries = decode(stream, entries.into_iter().map(|entry| (entry, 1)))?;
        Ok(Some(News::Entries { entries, since }))
    }

    /// A stream that has begun anew, for the server lost it, may have lower ids.
    async fn look_back(&mut self, link: &Link, stream: &StreamName) -> Result<()> {
        self.looked_back = Instant::now();
        let last = start::last(link, &self.key, "receive").await?;
        let last = last.unwrap_or(EntryId::MIN);
        if last < self.known {
            tracing::warn!(%stream, position = %self.after, "the stream is gone; reading what comes");
            // A start that lies ahead is still to come.
            if self.after <= self.known {
                self.after = EntryId::MIN;
            }
        }
        self.known = last;
        Ok(())
    }
}
