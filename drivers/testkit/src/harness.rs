//! What the kit needs from the author of a driver.

use std::time::Duration;

use streams_core::{AnyDriver, Clock, Delivery, Result, StreamName, async_trait, ksuid};

use crate::process::ReaderProcess;

/// How the kit gets at a driver. Only [`open`](Harness::open) is required; each hook adds cases.
///
/// Cases run at the same time, each with drivers and streams of its own. Those that restart a server
/// or cut a network run alone.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A driver connected anew, as another process would be: it sees the same streams as those
    /// opened before, and closing its writer closes no other. The harness of an in-memory driver
    /// gives out one store again and again.
    ///
    /// # Errors
    /// When it cannot be opened; the case fails with that.
    async fn open(&self) -> Result<AnyDriver>;

    /// The name in reports, such as `kafka (transactions)`. The default is the driver's.
    fn name(&self) -> Option<String> {
        None
    }

    /// A stream name that no other case and no other run uses. The default fits most backends.
    fn stream_name(&self, case: &str) -> String {
        let unique = ksuid().map_or_else(|_| fastrand::u64(..).to_string(), |id| id.to_string());
        format!("kit-{}-{unique}", case.replace('_', "-"))
    }

    /// Creates a stream that a case will use, where the driver does not create streams by itself.
    ///
    /// # Errors
    /// When the backend refuses; the case fails with that.
    async fn create(&self, stream: &StreamName) -> Result<()> {
        let _ = stream;
        Ok(())
    }

    /// Removes a stream after its case. It may not exist.
    ///
    /// # Errors
    /// Ignored: the cases are over by then.
    async fn remove(&self, stream: &StreamName) -> Result<()> {
        let _ = stream;
        Ok(())
    }

    /// What the backend's nature asks of the kit's times and numbers.
    fn profile(&self) -> Profile {
        Profile::default()
    }

    /// The clock the driver goes by. Set it only to run on virtual time, to the driver's own.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// The position of a delivery as [`StartFrom::Position`](streams_core::StartFrom::Position)
    /// takes it. The default is the sequence number in decimal.
    fn position(&self, delivery: &Delivery) -> String {
        delivery.token.id().sequence.to_string()
    }

    /// The name of a stream that the driver's writer refuses, for the cases where a part of a batch
    /// fails. Not needed where there is a largest message, or where writing to a stream that does
    /// not exist is refused.
    fn refused_stream(&self) -> Option<StreamName> {
        None
    }

    /// The server behind the driver, where the kit may restart it.
    fn server(&self) -> Option<&dyn Server> {
        None
    }

    /// The network to the server, where the kit may cut it.
    fn network(&self) -> Option<&dyn Network> {
        None
    }

    /// A producer that knows nothing of this toolkit, on the same backend.
    fn foreign(&self) -> Option<&dyn ForeignProducer> {
        None
    }

    /// How to start a process that reads, for the kit to kill: see [`ReaderProcess`]. Without one,
    /// as for in-memory drivers, a crash is a subscription that is dropped.
    fn reader_process(&self) -> Option<ReaderProcess> {
        None
    }
}

/// A server the kit may restart.
#[async_trait]
pub trait Server: Send + Sync {
    /// Stops the server hard and starts it again, with its data. Returns when it has been started;
    /// it need not take connections yet.
    ///
    /// # Errors
    /// When it cannot be restarted; the case fails with that.
    async fn restart(&self) -> Result<()>;
}

/// A network the kit may cut, such as a proxy between driver and server.
#[async_trait]
pub trait Network: Send + Sync {
    /// From now on, nothing gets through and nothing is refused either.
    ///
    /// # Errors
    /// When it cannot be cut; the case fails with that.
    async fn cut(&self) -> Result<()>;

    /// From now on, everything gets through, this much later.
    ///
    /// # Errors
    /// When it cannot be mended; the case fails with that.
    async fn mend(&self, latency: Duration) -> Result<()>;
}

/// Another program that writes to the backend.
#[async_trait]
pub trait ForeignProducer: Send + Sync {
    /// Writes a record with this data and nothing else: no id, no headers, no content type.
    ///
    /// # Errors
    /// When it cannot be written; the case fails with that.
    async fn write(&self, stream: &StreamName, data: &[u8]) -> Result<()>;
}

/// What a backend's nature asks of the kit's times and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// How many members of one group can have work at the same time: the number of partitions of a
    /// stream where there are some. The default is 50.
    pub members: usize,
    /// How long a message may take to arrive; after that it counts as lost. Leases come on top. The
    /// default is 15 s.
    pub patience: Duration,
    /// How long nothing must come for the kit to believe that nothing will. The default is 100 ms.
    pub quiet: Duration,
    /// How exactly the backend keeps delays; SQS has whole seconds. The default is 100 ms.
    pub tick: Duration,
}

impl Profile {
    /// Sets [`members`](Profile#structfield.members).
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// Sets [`patience`](Profile#structfield.patience).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets [`quiet`](Profile#structfield.quiet).
    #[must_use]
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Sets [`tick`](Profile#structfield.tick).
    #[must_use]
    pub fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            members: 50,
            patience: Duration::from_secs(15),
            quiet: Duration::from_millis(100),
            tick: Duration::from_millis(100),
        }
    }
}
