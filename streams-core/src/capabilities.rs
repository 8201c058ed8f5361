//! What a driver can do.

use std::fmt;
use std::time::Duration;

/// In what order a group's messages arrive, before the runner adds concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// None is promised.
    None,
    /// Messages of one key arrive in the order written.
    PerKey,
    /// All messages of a stream arrive in the order written.
    PerStream,
}

/// How deliveries are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledgement {
    /// One by one, in any order (SQS, Redis Streams): an [`Ack`](crate::SettleAction::Ack) is for
    /// that delivery alone.
    Individual,
    /// By position (Kafka): an [`Ack`](crate::SettleAction::Ack) is for that delivery **and all
    /// before it in its partition**. The runner sends only contiguous low-water marks.
    Cumulative,
}

/// Where a subscription can be told to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StartPositions {
    /// From the oldest message kept.
    pub earliest: bool,
    /// With the next message written.
    pub latest: bool,
    /// At a position of the driver's, such as an offset.
    pub position: bool,
    /// At the first message of that time or later.
    pub time: bool,
}

/// What a driver can do. It selects the cases of the conformance kit, fills the table of the
/// documentation, and lets the bus refuse a subscription that asks for more.
///
/// Start from [`Capabilities::none`] and set what holds:
///
/// ```
/// use streams_core::{Acknowledgement, Capabilities, Order};
///
/// let capabilities = Capabilities::none("my-driver")
///     .groups(true)
///     .order(Order::PerKey)
///     .acknowledgement(Acknowledgement::Individual);
/// assert!(capabilities.groups && !capabilities.transactions);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The driver's name, as in errors and tables.
    pub driver: &'static str,
    /// Consumer groups: each group gets all messages, its members share them.
    pub groups: bool,
    /// Reading without a group: each reader gets its own copy.
    pub no_group: bool,
    /// Reading without a group: the stream is a queue (SQS), whose readers share its messages as the
    /// members of one group do.
    pub shares_without_group: bool,
    /// Messages survive a restart of the server or process that holds them.
    pub durable: bool,
    /// Messages written before a group exists wait for it.
    pub keeps_before_group: bool,
    /// The order of arrival.
    pub order: Order,
    /// How deliveries are settled.
    pub acknowledgement: Acknowledgement,
    /// Streams have partitions, and the driver reports which the reader has:
    /// [`Received::Assigned`](crate::Received::Assigned) before the first delivery of one,
    /// [`Revoking`](crate::Received::Revoking) or [`Lost`](crate::Received::Lost) after the last.
    pub partitions: bool,
    /// Deliveries count their attempts.
    pub attempts: bool,
    /// Deliveries are leased: unsettled in time, they go to another reader.
    pub leases: bool,
    /// [`SettleAction::Retry`](crate::SettleAction::Retry) with a delay is kept by the backend, up
    /// to this long, so that it survives the reader.
    pub delayed_redelivery: Option<Duration>,
    /// Messages can be scheduled for later, at most this far ahead.
    pub delay: Option<Duration>,
    /// A scheduled message can be cancelled by its id.
    pub cancel_delayed: bool,
    /// The messages that are scheduled can be listed.
    pub list_delayed: bool,
    /// Where a subscription can start.
    pub start: StartPositions,
    /// A batch can be written all or nothing.
    pub transactions: bool,
    /// Deliveries can be settled in one transaction with what handling them writes.
    pub exactly_once: bool,
    /// Writing to a stream that does not exist creates it.
    pub creates_streams: bool,
    /// Largest data of one message, in bytes.
    pub largest_message: Option<usize>,
    /// Most headers of one message.
    pub most_headers: Option<usize>,
    /// Header values may be any bytes, not only text.
    pub binary_headers: bool,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub const fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            }
        )*
    };
}

impl Capabilities {
    /// Nothing but reading and writing.
    #[must_use]
    pub const fn none(driver: &'static str) -> Self {
        Self {
            driver,
            groups: false,
            no_group: false,
            shares_without_group: false,
            durable: false,
            keeps_before_group: false,
            order: Order::None,
            acknowledgement: Acknowledgement::Individual,
            partitions: false,
            attempts: false,
            leases: false,
            delayed_redelivery: None,
            delay: None,
            cancel_delayed: false,
            list_delayed: false,
            start: StartPositions {
                earliest: false,
                latest: false,
                position: false,
                time: false,
            },
            transactions: false,
            exactly_once: false,
            creates_streams: false,
            largest_message: None,
            most_headers: None,
            binary_headers: false,
        }
    }

    setters! {
        /// Sets [`groups`](Self#structfield.groups).
        groups: bool,
        /// Sets [`no_group`](Self#structfield.no_group).
        no_group: bool,
        /// Sets [`shares_without_group`](Self#structfield.shares_without_group).
        shares_without_group: bool,
        /// Sets [`durable`](Self#structfield.durable).
        durable: bool,
        /// Sets [`keeps_before_group`](Self#structfield.keeps_before_group).
        keeps_before_group: bool,
        /// Sets [`order`](Self#structfield.order).
        order: Order,
        /// Sets [`acknowledgement`](Self#structfield.acknowledgement).
        acknowledgement: Acknowledgement,
        /// Sets [`partitions`](Self#structfield.partitions).
        partitions: bool,
        /// Sets [`attempts`](Self#structfield.attempts).
        attempts: bool,
        /// Sets [`leases`](Self#structfield.leases).
        leases: bool,
        /// Sets [`delayed_redelivery`](Self#structfield.delayed_redelivery).
        delayed_redelivery: Option<Duration>,
        /// Sets [`delay`](Self#structfield.delay).
        delay: Option<Duration>,
        /// Sets [`cancel_delayed`](Self#structfield.cancel_delayed).
        cancel_delayed: bool,
        /// Sets [`list_delayed`](Self#structfield.list_delayed).
        list_delayed: bool,
        /// Sets [`start`](Self#structfield.start).
        start: StartPositions,
        /// Sets [`transactions`](Self#structfield.transactions).
        transactions: bool,
        /// Sets [`exactly_once`](Self#structfield.exactly_once).
        exactly_once: bool,
        /// Sets [`creates_streams`](Self#structfield.creates_streams).
        creates_streams: bool,
        /// Sets [`largest_message`](Self#structfield.largest_message).
        largest_message: Option<usize>,
        /// Sets [`most_headers`](Self#structfield.most_headers).
        most_headers: Option<usize>,
        /// Sets [`binary_headers`](Self#structfield.binary_headers).
        binary_headers: bool,
    }

    /// The guarantees as rows of name and value, for tables.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let start = [
            (self.start.earliest, "earliest"),
            (self.start.latest, "latest"),
            (self.start.position, "position"),
            (self.start.time, "time"),
        ];
        let start: Vec<_> = start
            .iter()
            .filter(|(has, _)| *has)
            .map(|(_, n)| *n)
            .collect();
        vec![
            ("consumer groups", yes(self.groups)),
            (
                "reading without a group",
                match (self.no_group, self.shares_without_group) {
                    (true, _) => "yes",
                    (_, true) => "yes, readers share",
                    _ => "no",
                }
                .to_owned(),
            ),
            ("survives a restart", yes(self.durable)),
            (
                "keeps messages before a group exists",
                yes(self.keeps_before_group),
            ),
            (
                "order",
                match self.order {
                    Order::None => "none",
                    Order::PerKey => "per key",
                    Order::PerStream => "per stream",
                }
                .to_owned(),
            ),
            (
                "acknowledgement",
                match self.acknowledgement {
                    Acknowledgement::Individual => "individual",
                    Acknowledgement::Cumulative => "by position",
                }
                .to_owned(),
            ),
            ("partitions", yes(self.partitions)),
            ("attempt count", yes(self.attempts)),
            ("leases", yes(self.leases)),
            (
                "delayed redelivery by the backend",
                limit(self.delayed_redelivery),
            ),
            ("scheduled messages", limit(self.delay)),
            ("cancelling scheduled messages", yes(self.cancel_delayed)),
            ("listing scheduled messages", yes(self.list_delayed)),
            (
                "start positions",
                if start.is_empty() {
                    "none".to_owned()
                } else {
                    start.join(", ")
                },
            ),
            ("transactions", yes(self.transactions)),
            ("exactly once (read, handle, write)", yes(self.exactly_once)),
            ("creates streams on write", yes(self.creates_streams)),
            ("largest message", size(self.largest_message)),
            ("binary header values", yes(self.binary_headers)),
        ]
    }
}

fn limit(limit: Option<Duration>) -> String {
    match limit {
        None => "no".to_owned(),
        Some(Duration::MAX) => "yes, any delay".to_owned(),
        Some(limit) => format!("up to {limit:?}"),
    }
}

fn size(limit: Option<usize>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"))
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.driver)?;
        for (name, value) in self.rows() {
            writeln!(f, "  {name}: {value}")?;
        }
        Ok(())
    }
}
