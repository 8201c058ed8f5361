//! The driver of the model: the core's traits over [`Broker`](crate::broker::Broker), with faults.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    AckToken, Acknowledgement, AnyDriver, Assignment, Capabilities, Delivery, Error, ErrorKind,
    ExtendReport, Message, MessageId, Order, ReadOptions, Reader, Received, Result, SettleReport,
    Settlement, Subscription, TokenId, TransactionPart, WriteError, Writer, async_trait,
    dead_letter,
};
use tokio::time::Instant;

use crate::broker::Kind;
use crate::world::{World, key, origin};

pub(crate) fn driver(world: &World) -> AnyDriver {
    let capabilities = match world.plan.kind {
        Kind::Positional => Capabilities::none("model")
            .groups(true)
            .no_group(true)
            .order(Order::PerKey)
            .acknowledgement(Acknowledgement::Cumulative)
            .partitions(true)
            .exactly_once(true),
        Kind::Leasing => Capabilities::none("model")
            .groups(true)
            .no_group(true)
            .order(Order::PerKey)
            .attempts(true)
            .leases(true)
            .exactly_once(true)
            .delayed_redelivery(Some(Duration::from_secs(900))),
    };
    let model = Arc::new(Model {
        world: world.clone(),
        capabilities,
    });
    AnyDriver::new(model.clone(), model)
}

struct Model {
    world: World,
    capabilities: Capabilities,
}

fn down(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, what).driver("model")
}

#[async_trait]
impl Reader for Model {
    async fn subscribe(&self, _options: &ReadOptions) -> Result<Box<dyn Subscription>> {
        self.world.dawdle(Duration::from_millis(50)).await;
        if self.world.chance(self.world.plan.connection_fails * 3) {
            return Err(down("refused"));
        }
        let state = &mut *self.world.lock();
        let session = state.broker.subscribe();
        let all = (0..self.world.plan.partitions).map(|p| state.broker.assignment(p));
        Ok(Box::new(Open {
            world: self.world.clone(),
            session,
            broken: false,
            revoking: None,
            assigned: match self.world.plan.kind {
                Kind::Positional => all.collect(),
                Kind::Leasing => Vec::new(),
            },
        }))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

/// Dead letters: one that is written counts as handled.
#[async_trait]
impl Writer for Model {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.world.dawdle(Duration::from_millis(20)).await;
        if self.world.chance(self.world.plan.dead_letter_fails) {
            return Err(WriteError::all(batch.len(), || down("cannot write")));
        }
        for message in batch {
            let id = message
                .headers()
                .get_str(dead_letter::headers::ID)
                .expect("a dead letter");
            let number = id.parse().expect("our id");
            self.world.lock().record.handled.insert(number);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

struct Open {
    world: World,
    session: u32,
    broken: bool,
    revoking: Option<Assignment>,
    /// To be announced.
    assigned: Vec<Assignment>,
}

impl Open {
    fn check(&mut self, chance: u32, what: &str) -> Result<()> {
        if self.broken || self.world.lock().broker.session != self.session {
            self.broken = true;
            return Err(down("the connection is gone"));
        }
        if self.world.chance(chance) {
            // Some failures pass, others take the connection with them.
            self.broken = self.world.chance(500);
            return Err(down(what));
        }
        Ok(())
    }

    fn change_partitions(&mut self) -> Option<Received> {
        let world = self.world.clone();
        if world.plan.kind != Kind::Positional || !world.chance(world.plan.revokes) {
            return None;
        }
        let partition = world.lock().rng.u32(0..world.plan.partitions);
        let mut state = world.lock();
        let assignment = state.broker.assignment(partition);
        if state.rng.bool() {
            self.revoking = Some(assignment);
            return Some(Received::Revoking(vec![assignment]));
        }
        state.broker.reassign(partition);
        self.assigned.push(state.broker.assignment(partition));
        Some(Received::Lost(vec![assignment]))
    }

    fn message(&self, number: usize) -> Message {
        let mut message = Message::builder("model")
            .id(MessageId::new(number.to_string()).expect("an id"))
            .data(vec![0; 1 + number % 7]);
        if let Some(key) = key(&self.world.plan, number) {
            message = message.key(key.to_string());
        }
        message.build().expect("a message")
    }
}

#[async_trait]
impl Subscription for Open {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        if let Some(gone) = self.revoking.take() {
            // Asked for more: the runner is done with it.
            let broker = &mut self.world.lock().broker;
            broker.reassign(gone.partition);
            self.assigned.push(broker.assignment(gone.partition));
        }
        self.world.dawdle(Duration::from_millis(5)).await;
        loop {
            let fails = self.world.plan.connection_fails;
            if let Err(error) = self.check(fails, "the connection broke") {
                self.broken = true;
                return Err(error);
            }
            if !self.assigned.is_empty() {
                return Ok(Received::Assigned(std::mem::take(&mut self.assigned)));
            }
            if let Some(changed) = self.change_partitions() {
                return Ok(changed);
            }
            let (delivered, next) = {
                let state = &mut *self.world.lock();
                let delivered = state
                    .broker
                    .deliver(self.session, max.get(), &mut state.rng);
                let unsettled = state.broker.unsettled(self.session);
                let plan = &self.world.plan;
                state
                    .record
                    .expect(unsettled <= plan.max_in_flight || plan.exactly_once, || {
                        format!("{unsettled} were fetched and not settled")
                    });
                (delivered, state.broker.next_change())
            };
            if !delivered.is_empty() {
                out.extend(delivered.into_iter().map(|one| {
                    let TokenId {
                        partition,
                        epoch,
                        sequence,
                    } = one.token;
                    let token = AckToken::new(partition, epoch, sequence);
                    let mut delivery = Delivery::new(self.message(one.message), token);
                    delivery.attempt = one.attempt;
                    delivery.lease = one.lease;
                    delivery
                }));
                return Ok(Received::Deliveries);
            }
            let soon = Instant::now() + Duration::from_millis(10);
            let done = self.world.lock().broker.all_done();
            if done {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(next.unwrap_or(soon).max(soon)).await;
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        self.world.dawdle(Duration::from_millis(3)).await;
        let fails = self.world.plan.settle_fails;
        self.check(fails, "settling failed")?;
        let mut report = SettleReport::default();
        // Now and then only some get through.
        let through = if self.world.chance(fails) {
            settlements.len() / 2
        } else {
            settlements.len()
        };
        for settlement in settlements.drain(..through) {
            let state = &mut *self.world.lock();
            let id = settlement.token.id();
            if !state
                .broker
                .settle(&mut state.record, id, settlement.action)
            {
                report.lost.push(id);
            }
        }
        Ok(report)
    }

    async fn settle_in_transaction(
        &mut self,
        parts: &mut Vec<TransactionPart>,
    ) -> Result<SettleReport> {
        self.world.dawdle(Duration::from_millis(3)).await;
        let fails = self.world.plan.settle_fails;
        self.check(fails, "the transaction failed")?;
        let mut report = SettleReport::default();
        {
            let state = &mut *self.world.lock();
            // Now and then only some get through.
            let through = if state.rng.u32(0..1000) < fails {
                parts.len() / 2
            } else {
                parts.len()
            };
            for part in parts.drain(..through) {
                let id = part.settlement.token.id();
                if state.broker.is_valid(id) {
                    state.record.written(&part.outputs);
                    let action = part.settlement.action;
                    let done = state.broker.settle(&mut state.record, id, action);
                    state.record.expect(done, || "valid".to_owned());
                } else {
                    if self.world.plan.kind == Kind::Leasing {
                        let numbers = part.outputs.iter().map(origin);
                        let keys = numbers.filter_map(|number| self.world.key(number));
                        state.record.keys_with_losses.extend(keys);
                    }
                    report.lost.push(id);
                }
            }
        }
        self.world.dawdle(Duration::from_millis(3)).await;
        if self.world.chance(fails / 4) {
            self.broken = true;
            let unknown = "the confirmation of the commit did not come";
            return Err(Error::new(ErrorKind::Conflict, unknown));
        }
        Ok(report)
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        self.world.dawdle(Duration::from_millis(3)).await;
        self.check(self.world.plan.settle_fails, "extending failed")?;
        let mut report = ExtendReport::default();
        if self.world.chance(self.world.plan.leases_lost) {
            let state = &mut *self.world.lock();
            let one = state.rng.usize(0..deliveries.len());
            state.broker.take_away(deliveries[one]);
        }
        report.lost = self.world.lock().broker.extend(deliveries, by);
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        self.broken = true;
        Ok(())
    }
}
