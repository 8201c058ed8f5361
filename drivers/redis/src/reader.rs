//! Reading.

use std::sync::Arc;

use streams_core::{
    Capabilities, ErrorKind, ReadOptions, Reader, Result, StartFrom, StreamName, Subscription,
    async_trait,
};

use crate::Inner;
use crate::cursor::Cursor;
use crate::entry::EntryId;
use crate::error::failed;
use crate::feed::Stream;
use crate::group::Group;
use crate::options::RedisOptions;
use crate::start;
use crate::subscription::Member;

pub(crate) struct RedisReader {
    inner: Arc<Inner>,
    capabilities: Capabilities,
}

impl RedisReader {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            capabilities: inner.config.capabilities(),
            inner,
        }
    }
}

#[async_trait]
impl Reader for RedisReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let own = RedisOptions::of(&options.driver)?;
        if own.bounded && options.group.is_some() {
            return Err(failed(
                ErrorKind::Unsupported,
                "subscribe",
                "a group reads on for ever; leave the group out to read up to the end",
            )
            .with("stream", &options.stream));
        }
        let opening = Opening {
            inner: self.inner.clone(),
            group: options.group.clone(),
            start: options.start.clone(),
            no_ack: own.no_ack,
            bounded: own.bounded,
        };
        let mut member = Member::new(opening, own.streams.as_ref());
        member.open(&options.stream, &StartFrom::Default).await?;
        Ok(Box::new(member))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// How the streams of a subscription are opened.
pub(crate) struct Opening {
    pub(crate) inner: Arc<Inner>,
    pub(crate) group: Option<String>,
    start: StartFrom,
    no_ack: bool,
    bounded: bool,
}

impl Opening {
    /// Opens a stream: from `start`, or where the subscription starts.
    pub(crate) async fn open(
        &self,
        name: &StreamName,
        start: &StartFrom,
    ) -> Result<(Stream, Option<Cursor>)> {
        let after = start::after(match start {
            StartFrom::Default => &self.start,
            start => start,
        })?;
        let Inner { config, link, .. } = &*self.inner;
        let keys = self.inner.keys(name);
        let (mut group, mut cursor) = (None, None);
        match &self.group {
            Some(name_of_group) => {
                group = Some(
                    Group::open(
                        link.clone(),
                        keys,
                        name,
                        name_of_group,
                        after,
                        config,
                        self.no_ack,
                    )
                    .await?,
                );
            }
            None => {
                let last = start::last(link, &keys.stream, "subscribe").await?;
                if last.is_none() && !config.create_streams {
                    return Err(failed(
                        ErrorKind::NotFound,
                        "subscribe",
                        "the stream does not exist; make it with `Redis::create_stream`, or set \
                         `create_streams`",
                    )
                    .with("stream", name));
                }
                let last = last.unwrap_or(EntryId::MIN);
                let until = self.bounded.then_some(last);
                cursor = Some(Cursor::new(keys.stream, after.unwrap_or(last), last, until));
            }
        }
        let stream = Stream {
            name: name.clone(),
            group,
            held: 0.into(),
            _moving: self.inner.movers.keep(&self.inner, name),
        };
        Ok((stream, cursor))
    }
}
