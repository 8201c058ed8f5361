//! A driver that hands out messages made beforehand, to measure the runner alone.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use streams_core::{
    AckToken, Acknowledgement, Capabilities, Delivery, Driver, Message, NoopWriter, Order,
    ReadOptions, Reader, Received, Result, SettleReport, Settlement, Subscription, Writer,
    async_trait,
};
use tokio::sync::Notify;

/// Hands out clones of a few messages, as many as it is told to, and counts what is settled.
#[derive(Clone)]
pub struct Flood(Arc<Shared>);

struct Shared {
    capabilities: Capabilities,
    messages: Vec<Message>,
    allowed: AtomicUsize,
    more: Notify,
    settled: AtomicUsize,
    done: Notify,
}

impl Flood {
    /// A driver that hands out these in turn, and none before [`run`](Flood::run).
    #[must_use]
    pub fn new(acknowledgement: Acknowledgement, messages: Vec<Message>) -> Self {
        let capabilities = Capabilities::none("flood")
            .groups(true)
            .no_group(true)
            .order(Order::PerStream)
            .acknowledgement(acknowledgement);
        Self(Arc::new(Shared {
            capabilities,
            messages,
            allowed: AtomicUsize::new(0),
            more: Notify::new(),
            settled: AtomicUsize::new(0),
            done: Notify::new(),
        }))
    }

    /// Hands out that many more, and waits until all so far are settled.
    pub async fn run(&self, messages: usize) {
        let until = self.0.allowed.fetch_add(messages, Ordering::AcqRel) + messages;
        self.0.more.notify_one();
        loop {
            let mut done = std::pin::pin!(self.0.done.notified());
            done.as_mut().enable();
            if self.0.settled.load(Ordering::Acquire) >= until {
                return;
            }
            done.await;
        }
    }
}

impl Driver for Flood {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }

    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(NoopWriter::new())
    }
}

#[async_trait]
impl Reader for Flood {
    async fn subscribe(&self, _: &ReadOptions) -> Result<Box<dyn Subscription>> {
        Ok(Box::new(Flooding {
            shared: self.0.clone(),
            next: 0,
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }
}

impl std::fmt::Debug for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flood").finish_non_exhaustive()
    }
}

struct Flooding {
    shared: Arc<Shared>,
    next: usize,
}

#[async_trait]
impl Subscription for Flooding {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if let Some(received) = self.try_receive(max, out) {
                return received;
            }
            let shared = self.shared.clone();
            shared.more.notified().await;
        }
    }

    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        let until = self
            .shared
            .allowed
            .load(Ordering::Acquire)
            .min(self.next + max.get());
        if self.next == until {
            return None;
        }
        while self.next < until {
            let message = &self.shared.messages[self.next % self.shared.messages.len()];
            let token = AckToken::new(0, 0, self.next as u64);
            out.push(Delivery::new(message.clone(), token));
            self.next += 1;
        }
        Some(Ok(Received::Deliveries))
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        self.try_settle(settlements)
            .unwrap_or_else(|| Ok(SettleReport::default()))
    }

    fn try_settle(&mut self, settlements: &mut Vec<Settlement>) -> Option<Result<SettleReport>> {
        match self.shared.capabilities.acknowledgement {
            Acknowledgement::Individual => {
                self.shared
                    .settled
                    .fetch_add(settlements.len(), Ordering::AcqRel);
            }
            // By position, and there is no third way.
            _ => {
                for settlement in settlements.iter() {
                    let count = settlement.token.id().sequence as usize + 1;
                    self.shared.settled.fetch_max(count, Ordering::AcqRel);
                }
            }
        }
        settlements.clear();
        self.shared.done.notify_waiters();
        Some(Ok(SettleReport::default()))
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}
