//! Reading: as a member of a group.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use streams_core::{
    Capabilities, Delivery, Error, ErrorKind, ReadOptions, Reader, Received, Result, SettleReport,
    Settlement, StartFrom, Subscription, async_trait,
};

use crate::group::{Group, Member};
use crate::stream::Stream;
use crate::{CAPABILITIES, DRIVER};

/// How often a reader that has nothing to do looks for new messages.
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct DirectoryReader {
    root: PathBuf,
}

impl DirectoryReader {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

#[async_trait]
impl Reader for DirectoryReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        // There are none, and one that is given must not be ignored.
        options.driver.check(DRIVER, &[])?;
        let Some(group) = &options.group else {
            return Err(Error::unsupported(
                DRIVER,
                "this driver reads only as part of a group; name one with `group`",
            )
            .operation("subscribe"));
        };
        let stream = Stream::open(&self.root, &options.stream)?;
        let group = Group::open(stream, group, |stream| first(stream, &options.start))?;
        let member = group.join()?;
        Ok(Box::new(DirectorySubscription {
            group,
            member,
            closed: false,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }
}

/// The number of the message a new group starts with.
fn first(stream: &Stream, start: &StartFrom) -> Result<u64> {
    match start {
        StartFrom::Default | StartFrom::Earliest => Ok(0),
        StartFrom::Latest => stream.end(),
        StartFrom::Position(text) => text.parse().map_err(|error| {
            Error::invalid_config("a position of this driver is the number of a message, from 0")
                .driver(DRIVER)
                .with("position", text)
                .source(error)
        }),
        StartFrom::Time(time) => {
            let end = stream.end()?;
            for sequence in 0..end {
                if stream.message(sequence)?.time() >= *time {
                    return Ok(sequence);
                }
            }
            Ok(end)
        }
        _ => Err(Error::unsupported(DRIVER, "this driver cannot start there")),
    }
}

struct DirectorySubscription {
    group: Group,
    member: Member,
    closed: bool,
}

#[async_trait]
impl Subscription for DirectorySubscription {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if self.closed {
                return Err(Error::new(
                    ErrorKind::Closed,
                    "the subscription is closed; open a new one",
                ));
            }
            // Between taking messages and returning them there is no await: a call that is dropped
            // has taken nothing. On a blocking thread they would be taken and never arrive.
            let mut claimed = self.group.claim(&self.member, max.get())?;
            if !claimed.is_empty() {
                out.append(&mut claimed);
                return Ok(Received::Deliveries);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let mut report = SettleReport::default();
        report.lost = self.group.settle(&self.member, settlements)?;
        settlements.clear();
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        self.group.leave(&self.member)
    }
}
