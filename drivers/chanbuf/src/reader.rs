//! Reading.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    Capabilities, Delivery, Error, ErrorKind, ExtendReport, ReadOptions, Reader, Received, Result,
    SettleReport, Settlement, Subscription, TokenId, async_trait,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::Broker;
use crate::config::{ChanbufOptions, DRIVER};
use crate::group::MemberId;
use crate::stream::{GroupId, Stream};

pub(crate) struct ChanbufReader {
    broker: Arc<Broker>,
}

impl ChanbufReader {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[async_trait]
impl Reader for ChanbufReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let config = &self.broker.config;
        let own = ChanbufOptions::of(&options.driver, config)?;
        let stream = self.broker.stream(&options.stream);
        let mut state = stream.lock();
        let group = state
            .open_group(options.group.as_deref(), &options.start, config)
            .map_err(|error| error.operation("subscribe").with("stream", &options.stream))?;
        let Some((member, wake)) = state.join(group) else {
            unreachable!("the group was opened under the same lock");
        };
        drop(state);
        Ok(Box::new(Member {
            lease: config.lease.map(|lease| own.lease.unwrap_or(lease)),
            stream,
            group,
            member,
            wake,
            closed: false,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.broker.capabilities
    }
}

/// A member of a group.
struct Member {
    stream: Arc<Stream>,
    group: GroupId,
    member: MemberId,
    wake: Arc<Notify>,
    lease: Option<Duration>,
    closed: bool,
}

/// Until when a member that found nothing sleeps, unless it is woken.
enum Found {
    Some,
    None { until: Option<Instant> },
}

impl Member {
    fn take(&self, max: NonZeroUsize, out: &mut Vec<Delivery>, wait: bool) -> Result<Found> {
        if self.closed {
            return Err(Error::closed("the subscription").driver(DRIVER));
        }
        let config = &self.stream.config;
        let before = out.len();
        let mut state = self.stream.lock();
        if !state.take(self.group, self.member, max.get(), self.lease, config, out) {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the group was deleted while it was read; subscribe again to make a new one",
            )
            .driver(DRIVER)
            .with("stream", &self.stream.name));
        }
        if out.len() > before {
            return Ok(Found::Some);
        }
        if !wait {
            return Ok(Found::None { until: None });
        }
        let until = state.next_time(self.group, config);
        let group = state.group(self.group);
        if let Some(member) = group.and_then(|group| group.member(self.member)) {
            member.waiting = true;
        }
        Ok(Found::None { until })
    }
}

/// A member that waits. It says so under the lock under which it found nothing; whoever adds
/// something looks for waiting members under the same lock, so no wake-up is lost. If it was woken
/// and stops waiting all the same, another member is woken in its place.
struct Waiting<'a> {
    member: &'a Member,
    /// Goes on to look for itself.
    looks: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.member.stream.lock();
        let Some(group) = state.group(self.member.group) else {
            return;
        };
        let Some(this) = group.member(self.member.member) else {
            return;
        };
        let woken = !std::mem::take(&mut this.waiting);
        if woken && !self.looks {
            group.wake(1);
        }
    }
}

#[async_trait]
impl Subscription for Member {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            let Found::None { until } = self.take(max, out, true)? else {
                return Ok(Received::Deliveries);
            };
            let mut waiting = Waiting {
                member: self,
                looks: false,
            };
            match until {
                None => self.wake.notified().await,
                Some(until) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(until) => {}
                },
            }
            waiting.looks = true;
        }
    }

    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        match self.take(max, out, false) {
            Ok(Found::Some) => Some(Ok(Received::Deliveries)),
            Ok(Found::None { .. }) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        Ok(self.stream.settle(self.group, self.member, settlements))
    }

    fn try_settle(&mut self, settlements: &mut Vec<Settlement>) -> Option<Result<SettleReport>> {
        Some(Ok(self.stream.settle(self.group, self.member, settlements)))
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let mut report = ExtendReport::default();
        if self.lease.is_some() {
            report.lost = self.stream.extend(self.group, self.member, deliveries, by);
        }
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.closed, true) {
            self.stream.leave(self.group, self.member);
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.closed {
            self.stream.leave(self.group, self.member);
        }
    }
}
