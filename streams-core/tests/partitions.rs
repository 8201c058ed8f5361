//! The listener for partitions, where it is slow, fails, or never ends. That it is told the right
//! things in the right order is the model's business.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use streams_core::{
    AckToken, Acknowledgement, AnyDriver, Assignment, Bus, Capabilities, Context, Delivery, Error,
    ErrorKind, Message, NoopWriter, Outcome, PartitionListener, ReadOptions, Reader, Received,
    Result, SettleReport, Settlement, Subscription, async_trait,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

const FIRST: Assignment = Assignment {
    partition: 0,
    epoch: 1,
};
const SECOND: Assignment = Assignment {
    partition: 1,
    epoch: 1,
};

/// What the driver says, one thing after another, then nothing more.
#[derive(Clone)]
enum Say {
    Assigned(Assignment),
    Revoking(Assignment),
    Message(Assignment),
}

struct Script {
    says: Mutex<VecDeque<Say>>,
}

impl Script {
    fn bus(says: impl Into<VecDeque<Say>>) -> Bus {
        let script = Arc::new(Self {
            says: Mutex::new(says.into()),
        });
        Bus::new(AnyDriver::new(script, Arc::new(NoopWriter::new())))
    }
}

#[async_trait]
impl Reader for Script {
    async fn subscribe(&self, _: &ReadOptions) -> Result<Box<dyn Subscription>> {
        let says = std::mem::take(&mut *self.says.lock().unwrap());
        Ok(Box::new(Open(says)))
    }

    fn capabilities(&self) -> &Capabilities {
        static CAPABILITIES: Capabilities = Capabilities::none("script")
            .no_group(true)
            .acknowledgement(Acknowledgement::Cumulative)
            .partitions(true);
        &CAPABILITIES
    }
}

struct Open(VecDeque<Say>);

#[async_trait]
impl Subscription for Open {
    async fn receive(&mut self, _: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        match self.0.pop_front() {
            Some(Say::Assigned(one)) => Ok(Received::Assigned(vec![one])),
            Some(Say::Revoking(one)) => Ok(Received::Revoking(vec![one])),
            Some(Say::Message(of)) => {
                let data = format!("{}:{}", of.partition, of.epoch);
                let message = Message::builder("s").data(data).build()?;
                let token = AckToken::new(of.partition, of.epoch, 0);
                out.push(Delivery::new(message, token));
                Ok(Received::Deliveries)
            }
            None => std::future::pending().await,
        }
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        settlements.clear();
        Ok(SettleReport::default())
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Notes what it is told, and does as it is told to.
#[derive(Clone, Default)]
struct Listener(Arc<State>);

#[derive(Default)]
struct State {
    told: Mutex<Vec<String>>,
    /// How much it was told.
    count: watch::Sender<usize>,
    assigned: Do,
    revoking: Do,
    /// For `Do::Wait`.
    go_on: Notify,
}

#[derive(Clone, Copy, Default)]
enum Do {
    #[default]
    Nothing,
    Wait,
    Hang,
    Fail,
    Panic,
}

impl Listener {
    fn new(assigned: Do, revoking: Do) -> Self {
        Self(Arc::new(State {
            assigned,
            revoking,
            ..State::default()
        }))
    }

    fn told(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: &str, partitions: &[Assignment]) {
        for one in partitions {
            self.told().push(format!("{what} {}", one.partition));
        }
        self.0.count.send_replace(self.told().len());
    }

    /// Waits until it was told this much.
    async fn until(&self, count: usize) {
        let mut told = self.0.count.subscribe();
        told.wait_for(|told| *told >= count).await.unwrap();
    }

    async fn act(&self, act: Do) -> Result<()> {
        match act {
            Do::Nothing => Ok(()),
            Do::Wait => {
                self.0.go_on.notified().await;
                Ok(())
            }
            Do::Hang => std::future::pending().await,
            Do::Fail => Err(Error::new(ErrorKind::Permission, "may not be restored")),
            Do::Panic => std::panic::resume_unwind(Box::new("as asked")),
        }
    }
}

#[async_trait]
impl PartitionListener for Listener {
    async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
        self.note("assigned", partitions);
        self.act(self.0.assigned).await?;
        self.note("ready", partitions);
        Ok(())
    }

    async fn revoking(&self, partitions: &[Assignment]) {
        self.note("revoking", partitions);
        let _ = self.act(self.0.revoking).await;
    }

    async fn lost(&self, partitions: &[Assignment]) {
        self.note("lost", partitions);
    }
}

async fn start(bus: &Bus, listener: &Listener) {
    bus.subscribe_stream("s", |_: Message, _: Context| async {})
        .on_partitions(listener.clone())
        .register()
        .unwrap();
    bus.start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_partition_that_is_not_ready() {
    let bus = Script::bus([Say::Assigned(FIRST), Say::Message(FIRST)]);
    let listener = Listener::new(Do::Hang, Do::Nothing);
    start(&bus, &listener).await;
    listener.until(1).await;
    let began = Instant::now();
    let report = bus.shutdown(Duration::from_secs(60)).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(report.acknowledged(), 0, "nothing of it was handled");
    assert_eq!(*listener.told(), ["assigned 0", "lost 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_ends_is_stopped_at_the_shutdown_deadline() {
    let bus = Script::bus([Say::Assigned(FIRST)]);
    let listener = Listener::new(Do::Nothing, Do::Hang);
    start(&bus, &listener).await;
    listener.until(2).await;
    let began = Instant::now();
    bus.shutdown(Duration::from_secs(10)).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(12));
    assert_eq!(*listener.told(), ["assigned 0", "ready 0", "revoking 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_can_never_be_ready_ends_the_subscription() {
    for (act, kind) in [
        (Do::Fail, ErrorKind::Permission),
        (Do::Panic, ErrorKind::Panic),
    ] {
        let bus = Script::bus([Say::Assigned(FIRST)]);
        let listener = Listener::new(act, Do::Nothing);
        start(&bus, &listener).await;
        let error = timeout(Duration::from_secs(10), bus.failed()).await;
        assert_eq!(error.unwrap().kind(), kind);
        bus.shutdown(Duration::ZERO).await;
        assert_eq!(*listener.told(), ["assigned 0", "lost 0"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_before_goes_on_while_a_partition_is_made_ready() {
    let says = [Say::Message(FIRST), Say::Assigned(SECOND)];
    let bus = Script::bus(says);
    let listener = Listener::new(Do::Wait, Do::Nothing);
    let handled = listener.clone();
    bus.subscribe_stream("s", move |_: Message, context: Context| {
        let handled = handled.clone();
        async move {
            if context.attempt() == 1 {
                // Its retry comes due while the listener is at work.
                handled.until(1).await;
                return Outcome::retry_after(Duration::from_secs(1));
            }
            handled.0.go_on.notify_one();
            Outcome::Ack
        }
    })
    .on_partitions(listener.clone())
    .register()
    .unwrap();
    bus.start().await.unwrap();
    let ready = timeout(Duration::from_secs(60), listener.until(2));
    ready.await.expect("the message was handled meanwhile");
    assert_eq!(*listener.told(), ["assigned 1", "ready 1"]);
    let report = bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!(report.acknowledged(), 1);
    assert_eq!(listener.told().last().unwrap(), "revoking 1");
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_revoked_partition_is_refused_until_it_is_back() {
    let again = Assignment { epoch: 2, ..FIRST };
    let bus = Script::bus([
        Say::Assigned(FIRST),
        Say::Revoking(FIRST),
        Say::Message(FIRST),
        Say::Assigned(SECOND),
        Say::Message(SECOND),
        Say::Assigned(again),
        Say::Message(again),
    ]);
    let (handled, mut seen) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_stream("s", move |message: Message, _: Context| {
        handled.send(message.data().clone()).unwrap();
        async {}
    })
    .register()
    .unwrap();
    bus.start().await.unwrap();
    // Handlers run in no order; what was refused would be among the first two, or come third.
    let mut both = [seen.recv().await.unwrap(), seen.recv().await.unwrap()];
    both.sort();
    assert_eq!(both, ["0:2", "1:1"]);
    let report = bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!(report.acknowledged(), 2);
    assert!(seen.try_recv().is_err());
}
