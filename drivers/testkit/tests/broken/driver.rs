//! Drivers that break one promise each, by standing around one that keeps them all.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use streams_core::{
    AckToken, AnyDriver, Capabilities, Delivery, Driver, DriverArguments, Error, ErrorKind,
    ExtendReport, Message, MessageId, ReadOptions, Reader, Received, Result, Scheduled,
    SettleAction, SettleReport, Settlement, StartFrom, StreamName, Subscription, TokenId,
    TransactionPart, WriteError, Writer, async_trait,
};
use tokio::sync::watch;

use crate::fault::Fault;
use crate::transactions;

/// The way to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    /// Rises with each restart, which ends every subscription.
    generation: u64,
    state: State,
    latency: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Refuses.
    Down,
    /// Says nothing.
    Cut,
}

/// What all connections of a broken driver share.
pub(crate) struct Broken {
    pub(crate) fault: Fault,
    capabilities: Capabilities,
    written: Mutex<HashMap<StreamName, usize>>,
    members: AtomicUsize,
    favourite: Mutex<HashMap<String, usize>>,
    /// Subscriptions that were closed and live on.
    kept: Mutex<Vec<Box<dyn Subscription>>>,
    link: watch::Sender<Link>,
}

/// The largest message of the sound driver, in bytes.
pub(crate) const LARGEST: usize = 64 << 10;

fn is_poison(data: &[u8]) -> bool {
    data.len() < 100 && std::str::from_utf8(data).is_err()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broken {
    pub(crate) fn new(fault: Fault, sound: &impl Driver) -> Arc<Self> {
        // The store outlives the restarts that are played here.
        let mut capabilities = sound.reader().capabilities().clone().durable(true);
        if fault == Fault::SchedulesUnasked {
            capabilities = capabilities
                .delay(None)
                .cancel_delayed(false)
                .list_delayed(false);
        }
        Arc::new(Self {
            fault,
            capabilities,
            written: Mutex::default(),
            members: AtomicUsize::new(0),
            favourite: Mutex::default(),
            kept: Mutex::default(),
            link: watch::Sender::new(Link {
                generation: 0,
                state: State::Up,
                latency: Duration::ZERO,
            }),
        })
    }

    /// Restarts the server, which is away for a while.
    pub(crate) async fn restart(&self) {
        self.link.send_modify(|link| {
            link.generation += 1;
            link.state = State::Down;
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.link.send_modify(|link| link.state = State::Up);
    }

    pub(crate) fn cut(&self) {
        self.link.send_modify(|link| link.state = State::Cut);
    }

    pub(crate) fn mend(&self, latency: Duration) {
        self.link.send_modify(|link| {
            link.state = State::Up;
            link.latency = latency;
        });
    }

    /// Waits until the server can be reached; `false` if it refuses.
    async fn reach(&self) -> bool {
        let mut link = self.link.subscribe();
        let link = *link
            .wait_for(|link| link.state != State::Cut)
            .await
            .unwrap();
        if !link.latency.is_zero() {
            tokio::time::sleep(link.latency).await;
        }
        link.state == State::Up
    }

    /// Writes a record as another program would; the store makes up what it lacks.
    pub(crate) async fn write_foreign(
        &self,
        sound: &impl Driver,
        stream: &StreamName,
        data: &[u8],
    ) -> Result<()> {
        if self.is(Fault::DropsForeign) {
            return Ok(());
        }
        let record = Message::builder(stream).data(data.to_vec()).build()?;
        Ok(sound.writer().write(&[record]).await?)
    }

    pub(crate) fn around(self: &Arc<Self>, sound: &impl Driver) -> AnyDriver {
        let reader = BrokenReader {
            shared: self.clone(),
            next: sound.reader(),
            writer: sound.writer(),
        };
        let writer = BrokenWriter {
            shared: self.clone(),
            next: sound.writer(),
            later: Mutex::default(),
        };
        AnyDriver::new(Arc::new(reader), Arc::new(writer))
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Whether this is a tenth message of its stream.
    fn is_tenth(&self, message: &Message) -> bool {
        let mut written = lock(&self.written);
        let count = written.entry(message.stream().clone()).or_default();
        *count += 1;
        count.is_multiple_of(10)
    }

    /// A settlement as it is really meant.
    fn twist(&self, settlement: &mut Settlement) {
        match (self.fault, settlement.action) {
            (Fault::RetryIsAck, SettleAction::Retry { .. })
            | (Fault::ReleaseIsAck, SettleAction::Release) => {
                settlement.action = SettleAction::Ack;
            }
            (Fault::IgnoresRetryDelay, SettleAction::Retry { .. }) => {
                settlement.action = SettleAction::Retry { after: None };
            }
            _ => {}
        }
    }

    /// The batch as it is really written.
    fn mangle(&self, batch: &[Message]) -> Vec<Message> {
        let each = |message: &Message| match self.fault {
            Fault::LosesMessages if self.is_tenth(message) => vec![],
            Fault::Duplicates if self.is_tenth(message) => vec![message.clone(), message.clone()],
            Fault::CleansHeaders => {
                let clean = |value: &[u8]| {
                    value
                        .iter()
                        .copied()
                        .filter(|byte| *byte >= 32)
                        .collect::<Vec<_>>()
                };
                let headers = message
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_owned(), clean(value)));
                vec![
                    message
                        .to_builder()
                        .headers(headers.collect())
                        .build_received()
                        .unwrap(),
                ]
            }
            Fault::CutsData if message.data().len() <= LARGEST => {
                let data = message.data().slice(..message.data().len().min(4096));
                vec![message.to_builder().data(data).build_received().unwrap()]
            }
            Fault::ShiftsTime => {
                let time = message.time() - Duration::from_secs(1);
                vec![message.to_builder().time(time).build_received().unwrap()]
            }
            Fault::DropsPoison if is_poison(message.data()) => vec![],
            _ => vec![message.clone()],
        };
        batch.iter().flat_map(each).collect()
    }
}

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is away")
}

struct BrokenWriter {
    shared: Arc<Broken>,
    next: Arc<dyn Writer>,
    later: Mutex<tokio::task::JoinSet<()>>,
}

#[async_trait]
impl Writer for BrokenWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if self.shared.is(Fault::ConfirmsIntoTheVoid)
            && self.shared.link.borrow().state == State::Cut
        {
            return Ok(());
        }
        if !self.shared.reach().await {
            return Err(WriteError::all(batch.len(), away));
        }
        let mangled = self.shared.mangle(batch);
        if self.shared.is(Fault::WritesLater) {
            let next = self.next.clone();
            lock(&self.later).spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let _ = next.write(&mangled).await;
            });
            return Ok(());
        }
        match self.next.write(&mangled).await {
            Err(error) if self.shared.is(Fault::BlamesAll) => {
                let first = &error.failures()[0].1;
                let each = || Error::new(first.kind(), first.to_string());
                Err(WriteError::all(batch.len(), each))
            }
            Err(_) if self.shared.is(Fault::HidesFailures) => Ok(()),
            result => result,
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        match self.shared.fault {
            Fault::DeliversEarly | Fault::SchedulesUnasked => self.next.write(batch).await,
            _ => self.next.write_at(batch, due).await,
        }
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        match self.shared.fault {
            Fault::CancelsNothing => Ok(true),
            _ => self.next.cancel(stream, id).await,
        }
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        let mut scheduled = self.next.scheduled(stream, limit).await?;
        if self.shared.is(Fault::ListsBackwards) {
            scheduled.reverse();
        }
        Ok(scheduled)
    }

    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        if !self.shared.reach().await {
            return Err(away());
        }
        let mangled = self.shared.mangle(batch);
        match self.shared.fault {
            Fault::WritesAfterClose | Fault::WritesInPart | Fault::HidesFailures => {
                transactions::write_in_part(self.shared.fault, &*self.next, &mangled).await
            }
            _ => self.next.write_in_transaction(&mangled).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.next.flush().await
    }

    async fn close(&self) -> Result<()> {
        match self.shared.fault {
            Fault::WritesAfterClose => Ok(()),
            Fault::WritesLater => {
                lock(&self.later).abort_all();
                self.next.close().await
            }
            _ => self.next.close().await,
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }
}

struct BrokenReader {
    shared: Arc<Broken>,
    next: Arc<dyn Reader>,
    writer: Arc<dyn Writer>,
}

#[async_trait]
impl Reader for BrokenReader {
    async fn subscribe(&self, options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        if !self.shared.reach().await {
            return Err(away());
        }
        let number = self.shared.members.fetch_add(1, Ordering::Relaxed);
        let mut options = options.clone();
        match self.shared.fault {
            Fault::OneGroup if options.group.is_some() => options.group = Some("all".to_owned()),
            Fault::GroupPerMember if options.group.is_some() => {
                options.group = Some(format!("member-{number}"));
            }
            Fault::IgnoresStart if options.start != StartFrom::Default => {
                options.start = StartFrom::Earliest;
            }
            Fault::IgnoresTheFuture => {
                if matches!(options.start, StartFrom::Time(start) if start > SystemTime::now()) {
                    options.start = StartFrom::Earliest;
                }
            }
            Fault::StartsBehindPosition => {
                if let StartFrom::Position(position) = &options.start {
                    let behind = position.parse::<u64>().unwrap() + 1;
                    options.start = StartFrom::Position(behind.to_string());
                }
            }
            Fault::IgnoresUnknownOptions => options.driver = DriverArguments::default(),
            _ => {}
        }
        let group = format!("{} {:?}", options.stream, options.group);
        lock(&self.shared.favourite)
            .entry(group.clone())
            .or_insert(number);
        Ok(Box::new(BrokenSubscription {
            shared: self.shared.clone(),
            next: Some(self.next.subscribe(&options).await?),
            writer: self.writer.clone(),
            held: Vec::new(),
            number,
            group,
            generation: self.shared.link.borrow().generation,
            closed: false,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }
}

struct BrokenSubscription {
    shared: Arc<Broken>,
    /// `None` once it lives on elsewhere.
    next: Option<Box<dyn Subscription>>,
    /// For what is written apart from its transaction.
    writer: Arc<dyn Writer>,
    held: Vec<TokenId>,
    number: usize,
    group: String,
    generation: u64,
    closed: bool,
}

fn again(id: TokenId) -> AckToken {
    AckToken::new(id.partition, id.epoch, id.sequence)
}

#[async_trait]
impl Subscription for BrokenSubscription {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        let fault = self.shared.fault;
        if fault == Fault::ReceiveHangsWhenClosed && self.closed {
            std::future::pending::<()>().await;
        }
        if fault == Fault::FavoursOne
            && lock(&self.shared.favourite).get(&self.group) != Some(&self.number)
        {
            std::future::pending::<()>().await;
        }
        let Some(next) = &mut self.next else {
            return Err(Error::closed("the subscription"));
        };
        let max = match fault {
            Fault::TakesTooMuch => max.saturating_add(1),
            Fault::OneAtATime if !self.held.is_empty() => return std::future::pending().await,
            Fault::OneAtATime => NonZeroUsize::MIN,
            _ => max,
        };
        let before = out.len();
        if fault == Fault::NotCancelSafe {
            let mut taken = Vec::new();
            let received = next.receive(max, &mut taken).await?;
            tokio::task::yield_now().await;
            out.append(&mut taken);
            return Ok(received);
        }
        let mut link = self.shared.link.subscribe();
        let generation = self.generation;
        let received = loop {
            let changed = async {
                let is_changed =
                    |link: &Link| link.generation != generation || link.state == State::Cut;
                *link.wait_for(is_changed).await.unwrap()
            };
            tokio::select! {
                biased;
                changed = changed => {
                    if changed.generation != generation {
                        if fault == Fault::LosesOnRestart {
                            let mut acks = self.held.drain(..).map(|id| again(id).ack()).collect();
                            next.settle(&mut acks).await?;
                        }
                        self.next = None;
                        let dies = fault == Fault::DiesOnRestart;
                        return Err(away().retryable(!dies));
                    }
                }
                received = next.receive(max, out) => break received?,
            }
            self.shared.reach().await;
        };
        let new = &mut out[before..];
        self.held
            .extend(new.iter().map(|delivery| delivery.token.id()));
        match fault {
            Fault::Reverses => new.reverse(),
            Fault::ForgetsAttempt => new
                .iter_mut()
                .for_each(|delivery| delivery.attempt = Some(1)),
            Fault::AcksOnReceive => {
                let mut acks = new
                    .iter()
                    .map(|delivery| again(delivery.token.id()).ack())
                    .collect();
                next.settle(&mut acks).await?;
            }
            _ => {}
        }
        Ok(received)
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let fault = self.shared.fault;
        let Some(next) = &mut self.next else {
            settlements.clear();
            return Ok(SettleReport::default());
        };
        self.held
            .retain(|id| settlements.iter().all(|s| s.token.id() != *id));
        if fault == Fault::IgnoresAcks {
            settlements.retain(|settlement| settlement.action != SettleAction::Ack);
        }
        settlements
            .iter_mut()
            .for_each(|one| self.shared.twist(one));
        let mut report = next.settle(settlements).await?;
        if matches!(fault, Fault::HidesLostLeases | Fault::AcksOnReceive) {
            report.lost.clear();
        }
        Ok(report)
    }

    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        let Some(next) = &mut self.next else {
            parts.clear();
            return Ok(SettleReport::default());
        };
        for part in &mut *parts {
            let id = part.settlement.token.id();
            self.held.retain(|held| *held != id);
            self.shared.twist(&mut part.settlement);
            part.outputs = self.shared.mangle(&part.outputs);
        }
        let fault = self.shared.fault;
        let mut report = transactions::settle(fault, &mut **next, &*self.writer, parts).await?;
        if matches!(fault, Fault::HidesLostLeases | Fault::AcksOnReceive) {
            report.lost.clear();
        }
        Ok(report)
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        match &mut self.next {
            Some(next) if self.shared.fault != Fault::ExtendsNothing => {
                next.extend(deliveries, by).await
            }
            _ => Ok(ExtendReport::default()),
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.closed = true;
        lock(&self.shared.favourite).remove(&self.group);
        match self.shared.fault {
            Fault::KeepsOnClose => {
                lock(&self.shared.kept).extend(self.next.take());
                Ok(())
            }
            Fault::HangsOnClose => std::future::pending().await,
            _ => match &mut self.next {
                Some(next) => next.close().await,
                None => Ok(()),
            },
        }
    }
}

impl Drop for BrokenSubscription {
    fn drop(&mut self) {
        lock(&self.shared.favourite).remove(&self.group);
        if let (Fault::AcksOnDrop, Some(next)) = (self.shared.fault, &mut self.next) {
            let mut acks = self.held.drain(..).map(|id| again(id).ack()).collect();
            let settled = next.try_settle(&mut acks);
            assert!(
                settled.is_some(),
                "the sound driver settles without waiting"
            );
        }
    }
}
