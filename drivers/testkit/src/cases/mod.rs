//! The cases.

mod crash;
mod delay;
mod failures;
mod faults;
mod groups;
mod leases;
mod lifecycle;
mod order;
mod partitions;
mod publish;
mod settle;
mod start;
mod transactions;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::Need;
use crate::failure::Checked;
use crate::kit::Kit;

pub(crate) use transactions::copy_of;

type Running = Pin<Box<dyn Future<Output = Checked> + Send>>;

/// One case of the kit.
#[non_exhaustive]
pub struct Case {
    /// Its name, by which it is chosen and reported.
    pub name: &'static str,
    /// What happens, and what must come of it.
    pub about: &'static str,
    /// What it needs; without all of this it is not applicable.
    pub needs: &'static [Need],
    /// Whether it runs when no other case does: it measures time, or would disturb the others.
    pub(crate) alone: bool,
    /// How many times the usual timeout it may take.
    pub(crate) patience: u32,
    pub(crate) run: fn(Arc<Kit>) -> Running,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

/// The cases, in the order they are reported.
#[must_use]
pub fn cases() -> &'static [Case] {
    ALL
}

macro_rules! all {
    ($($module:ident::$name:ident [$($need:ident),*] $(alone $alone:literal)? $(x $patience:literal)? $about:literal;)*) => {
        static ALL: &[Case] = &[$(
            Case {
                name: stringify!($name),
                about: $about,
                needs: &[$(Need::$need),*],
                alone: false $(|| $alone)?,
                patience: 1 $(* $patience)?,
                run: |kit| Box::pin(async move { $module::$name(&kit).await }),
            },
        )*];

        /// Calls `$then!($arguments case case ...)` with the names of all cases.
        #[doc(hidden)]
        #[macro_export]
        macro_rules! __each_case {
            ($arguments:tt $then:ident) => {
                $crate::$then! { $arguments $($name)* }
            };
        }
    };
}

all! {
    publish::publish_subscribe []
        "a batch arrives with ids, keys, headers, content type, time and data as written";
    publish::publish_one_by_one []
        "writes of one message each arrive in the same way";
    publish::partial_batch_failure [Refusal]
        "a batch with messages that cannot be written: the error names exactly those, the others \
         arrive once, and writing only those again leaves no duplicate";
    publish::payloads []
        "one byte, every byte, the largest message: byte-exact; empty and too large are refused";
    publish::metadata []
        "18 awkward sets of headers arrive equal or are refused before anything is written";
    publish::concurrent_publish []
        "50 publishers share a writer; everything arrives once, in order per publisher";
    publish::many_streams []
        "one writer, 20 streams in mixed batches: no cross-talk";
    groups::concurrent_subscribe [Shared]
        "50 members of a group: each message goes to exactly one, and every member gets work";
    groups::groups [Groups]
        "two groups each get everything";
    groups::no_group [NoGroup]
        "two readers without a group each get everything";
    groups::rebalance [Shared] x 2
        "members join and leave under load: nothing is lost, order per key holds";
    partitions::assignments [Partitions, Groups] x 2
        "a member's partitions: announced before their messages come, nothing after they go, epochs \
         that rise, and late settlements reported";
    order::order_per_key [Order]
        "16 keys, 8 handlers: the order of each key is exact and its messages never overlap";
    order::order_across_retry [Order]
        "the third message of each key fails twice: the order of each key is still exact";
    order::slow_key [Order] alone true
        "one slow key does not hold up the others";
    settle::ack_blocks_redelivery [Shared]
        "what was acknowledged does not come again";
    settle::attempt_count [Attempts, Individual]
        "each delivery of a message counts one more attempt";
    settle::release [Individual]
        "what is released comes again at once";
    settle::partial_batch_settle [Shared]
        "of a batch, some acknowledged, some retried, some dropped: exactly the rest comes again";
    settle::retry_after_error []
        "a handler that fails twice gets each message a third time";
    settle::retry_delay []
        "a retry after a delay comes not before it, and others flow meanwhile";
    settle::redelivery_delay [DelayedRedelivery, Individual]
        "the same, kept by the backend";
    settle::batch_handler []
        "a batch handler settles item by item";
    settle::layers_wrap_batches []
        "layers around a batch handler do as around a handler of single messages";
    lifecycle::cancel_receive []
        "receive is cancelled at random points: nothing is lost";
    lifecycle::continue_after_close [Shared]
        "a stream read in five sittings: nothing is lost, nothing comes twice";
    crash::crash_without_close [Shared]
        "the reader is killed: all it had not acknowledged comes again, and nothing else";
    lifecycle::close_gives_back [Shared]
        "the reader closes: all it had not acknowledged comes again, and nothing else";
    crash::retry_survives_crash [Shared, Individual]
        "retries are pending when the reader is killed or shut down: they come again";
    lifecycle::writer_close_flushes []
        "what was given to the writer before it was closed arrives";
    lifecycle::close_is_idempotent []
        "closing twice and at the same time as writing: no hang; what comes later is refused";
    lifecycle::close_drains [Shared]
        "a shutdown lets running handlers finish, starts none, and gives the rest back at once";
    lifecycle::close_deadline [Shared]
        "a handler that never ends is abandoned at the deadline, counted, and its message comes again";
    lifecycle::backpressure []
        "a fast publisher and a slow handler: in flight stays within its limit, nothing is lost";
    leases::lease_extension [Leases, Shared] x 2
        "a handler that takes longer than the lease keeps its message, and is told if it does not";
    leases::lease_lost [Leases, Shared] x 2
        "an acknowledgement after the end of the lease does no harm and is reported";
    start::start_position [Start]
        "a subscription starts exactly where it is told, the message at the boundary included";
    start::group_start [Groups] x 2
        "a group's start is kept: what is written after its first reader subscribed comes, whatever \
         becomes of that reader";
    start::missing_stream []
        "a stream that does not exist is not found, or created where the driver does that";
    start::unsupported_is_said []
        "an option outside the capabilities is an error, never ignored";
    delay::delayed []
        "scheduled messages: none early, in order of their times, cancelling works; or `Unsupported`";
    delay::delayed_list [ListDelayed]
        "scheduled messages are listed whole, in the order of their times, at most as many as asked for; \
         one that was taken back is not";
    transactions::transaction [Transactions]
        "a batch over three streams with a message that cannot be written leaves nothing; without it, \
         all arrives once";
    transactions::exactly_once [ExactlyOnce, Groups] x 2
        "handlers copy a stream while readers join and are stopped in the middle: each copy is there \
         once, in order per key";
    transactions::exactly_once_crash [ExactlyOnce, Groups] x 2
        "readers that copy are killed, in the middle of a transaction too: each copy is there once";
    transactions::exactly_once_retry [ExactlyOnce, Groups]
        "handlers publish and then fail: what they published before a failure is never seen";
    failures::error_is_not_a_drop []
        "a handler that always fails: retried at a bounded rate, and never dropped";
    failures::panic_is_contained []
        "a message whose handler panics goes to the dead letters; everything else goes on";
    failures::poison []
        "undecodable data goes to the dead letters with the reason; the stream goes on";
    failures::foreign_record [Foreign]
        "the same for a record without an id that another program wrote";
    failures::dlq_round_trip []
        "a dead letter tells its story; brought back, it is handled once";
    failures::dlq_down [Shared]
        "while dead letters cannot be written, the message is not acknowledged";
    faults::reconnect [Server, Durable, Shared] alone true x 3
        "the server is restarted twice: nothing is lost";
    faults::network_cut [Network, Shared] alone true x 3
        "the network is cut, then slow: the driver recovers by itself, nothing is lost";
}
