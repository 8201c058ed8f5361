//! Reading.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    Capabilities, Delivery, Error, ErrorKind, ExtendReport, Message, ReadOptions, Reader, Received,
    Result, SettleReport, Settlement, Subscription, TokenId, TransactionPart, async_trait,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::Broker;
use crate::config::{ChanbufOptions, DRIVER};
use crate::group::{Ask, Taken};
use crate::members::MemberId;
use crate::stream::{GroupId, Stream};
use crate::transaction::Streams;

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
        let joined = {
            let mut state = stream.lock();
            let group = state.open_group(options.group.as_deref(), &options.start, config);
            group.map(|group| (group, state.join(group)))
        };
        let (group, (member, wake)) = match joined {
            Ok((group, Some(joined))) => (group, joined),
            Ok((_, None)) => unreachable!("the group was opened under the same lock"),
            Err(error) => {
                self.broker.forget_unused(&stream);
                return Err(error.operation("subscribe").with("stream", &options.stream));
            }
        };
        Ok(Box::new(Member {
            broker: self.broker.clone(),
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
    broker: Arc<Broker>,
    stream: Arc<Stream>,
    group: GroupId,
    member: MemberId,
    wake: Arc<Notify>,
    lease: Option<Duration>,
    closed: bool,
}

impl Member {
    /// Takes what is there. With `wait`, a member that finds nothing is counted as waiting, under
    /// the lock under which it found nothing: whoever adds something later sees it.
    fn take(
        &self,
        max: NonZeroUsize,
        wait: bool,
        out: &mut Vec<Delivery>,
    ) -> Result<(Taken, Option<Instant>)> {
        if self.closed {
            return Err(Error::closed("the subscription").driver(DRIVER));
        }
        let config = &self.stream.config;
        let ask = Ask {
            member: self.member,
            max: max.get(),
            lease: self.lease,
            yields: wait,
        };
        let mut state = self.stream.lock();
        let Some(taken) = state.take(self.group, &ask, config, out) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the group was deleted while it was read; subscribe again to make a new one",
            )
            .driver(DRIVER)
            .with("stream", &self.stream.name));
        };
        let mut until = None;
        if wait && taken == Taken::None {
            until = state.wait(self.group, self.member, config);
        }
        Ok((taken, until))
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.stream.leave(self.group, self.member);
            self.broker.forget_unused(&self.stream);
        }
    }
}

/// A member that waits. No wake-up is lost:
/// - It was counted as waiting under the lock under which it found nothing. Whoever adds something
///   takes that lock, and then wakes it through a permit that stays until it is used.
/// - If it stops waiting without looking (its `receive` is dropped), another member is woken for
///   what it was woken for, or was to look for by the clock.
struct Waiting<'a> {
    member: &'a Member,
    /// Goes on to look for itself.
    looks: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Member {
            stream,
            group,
            member,
            ..
        } = self.member;
        let mut state = stream.lock();
        if !self.looks {
            state.give_up_waiting(*group, *member, &stream.config);
        } else if let Some(group) = state.group(*group) {
            group.members.stop_waiting(*member, true);
        }
    }
}

#[async_trait]
impl Subscription for Member {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            let (taken, until) = self.take(max, true, out)?;
            match taken {
                Taken::Some => return Ok(Received::Deliveries),
                Taken::GiveWay => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Taken::None => {}
            }
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
        match self.take(max, false, out) {
            Ok((Taken::Some, _)) => Some(Ok(Received::Deliveries)),
            Ok((Taken::None | Taken::GiveWay, _)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        Ok(self.stream.settle(self.group, self.member, settlements))
    }

    fn try_settle(&mut self, settlements: &mut Vec<Settlement>) -> Option<Result<SettleReport>> {
        Some(Ok(self.stream.settle(self.group, self.member, settlements)))
    }

    /// Does not wait for room: a stream that is full refuses it, to be tried again.
    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        let outputs = parts.iter().flat_map(|part| &part.outputs);
        let config = &self.broker.config;
        if let Some(unfit) = outputs.clone().find(|message| !config.is_fit(message)) {
            return Err(config.unfit(unfit));
        }
        let names = outputs.map(Message::stream);
        let streams = Streams::of(&self.broker, names.chain([&self.stream.name]));
        let result = streams.settle(&self.stream, self.group, self.member, parts);
        streams.forget_unused(&self.broker);
        result.map_err(|(stream, why)| stream.error(why).operation("settle_in_transaction"))
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let mut report = ExtendReport::default();
        if self.lease.is_some() {
            report.lost = self.stream.extend(self.group, self.member, deliveries, by);
        }
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        self.leave();
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}
