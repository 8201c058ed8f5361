//! The promises that are broken.

/// The promise that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None: the wrappers themselves do no harm.
    None,
    /// Every tenth message of a stream is confirmed and not written.
    LosesMessages,
    /// Every tenth message of a stream is written twice.
    Duplicates,
    /// Headers with control characters lose them.
    CleansHeaders,
    /// Data of the allowed size is cut at 4096 bytes.
    CutsData,
    /// Times are a second off.
    ShiftsTime,
    /// A batch that fails in part fails as a whole, says the error.
    BlamesAll,
    /// A batch that fails in part is confirmed.
    HidesFailures,
    /// Scheduled messages are delivered at once.
    DeliversEarly,
    /// Cancelling says that it worked and does nothing.
    CancelsNothing,
    /// Scheduled messages are listed the wrong way round.
    ListsBackwards,
    /// A closed writer goes on writing.
    WritesAfterClose,
    /// Writes are confirmed at once and done later; closing gives up on those not done.
    WritesLater,
    /// What is received together comes in reverse.
    Reverses,
    /// More comes than was asked for.
    TakesTooMuch,
    /// Messages are taken before they can be returned, so that a cancelled call loses them.
    NotCancelSafe,
    /// What was received is acknowledged there and then.
    AcksOnReceive,
    /// A dropped subscription acknowledges what it had.
    AcksOnDrop,
    /// Acknowledgements are thrown away.
    IgnoresAcks,
    /// Retries acknowledge.
    RetryIsAck,
    /// Releases acknowledge.
    ReleaseIsAck,
    /// Retries come at once whatever their delay.
    IgnoresRetryDelay,
    /// Every delivery is the first.
    ForgetsAttempt,
    /// All groups are one.
    OneGroup,
    /// Every member is a group.
    GroupPerMember,
    /// One member gets everything, the others nothing while it lives.
    FavoursOne,
    /// Every subscription starts from the earliest message.
    IgnoresStart,
    /// A subscription that starts in the future reads everything.
    IgnoresTheFuture,
    /// Starting at a position leaves its message out.
    StartsBehindPosition,
    /// Options it does not know are ignored.
    IgnoresUnknownOptions,
    /// A lost lease is not reported.
    HidesLostLeases,
    /// Leases are not extended.
    ExtendsNothing,
    /// A closed subscription keeps what it had.
    KeepsOnClose,
    /// Closing a subscription never ends.
    HangsOnClose,
    /// Receiving from a closed subscription never ends.
    ReceiveHangsWhenClosed,
    /// It says that it cannot schedule messages, and does it wrongly when asked.
    SchedulesUnasked,
    /// A little data that is not text is lost.
    DropsPoison,
    /// Records of other producers are lost.
    DropsForeign,
    /// One message at a time: nothing more comes until it is settled.
    OneAtATime,
    /// What was in flight when the server restarts is taken as acknowledged.
    LosesOnRestart,
    /// A server that restarts is taken for one that refuses.
    DiesOnRestart,
    /// What is written into a network that is cut is confirmed.
    ConfirmsIntoTheVoid,
    /// Of a transaction that fails, what can be written is.
    WritesInPart,
    /// What comes of deliveries is written, and then they are settled.
    WritesBeforeSettling,
    /// Deliveries are settled, and then what comes of them is written.
    SettlesBeforeWriting,
    /// What comes of a delivery that was lost is written too.
    WritesWhatIsLost,
}
