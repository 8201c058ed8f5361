//! What writers to SQS and to SNS alike do when something fails.

use std::collections::{BTreeMap, HashSet};

use streams_core::{Driver, ErrorKind, Message, StreamName, WriteError};

use crate::messages::{Reading, fifo_stream, once, stream, text};
use crate::proxy::{Fault, HttpProxy};

/// A stream of a test's own, with the server behind a proxy.
pub(crate) trait Setup: Sized {
    /// The operation that writes a batch.
    const BATCH: &'static str;
    /// The code with which it is throttled.
    const THROTTLED: &'static str;

    async fn of(stream: StreamName) -> Self;

    fn driver(&self) -> &impl Driver;

    fn proxy(&self) -> &HttpProxy;

    fn stream(&self) -> &StreamName;

    /// Reads with leases so long that on a busy machine none runs out.
    async fn reading(&self) -> Reading;

    async fn new(name: &str) -> Self {
        Self::of(stream(name)).await
    }

    async fn fifo(name: &str) -> Self {
        Self::of(fifo_stream(name)).await
    }

    /// Messages, each with its number as data, in this many keys.
    fn messages(&self, count: usize, keys: usize) -> Vec<Message> {
        let message = |number: usize| {
            let message = Message::builder(self.stream()).data(number.to_string());
            let message = message.key(format!("key-{}", number % keys));
            message.build().unwrap()
        };
        (0..count).map(message).collect()
    }

    async fn write(&self, messages: &[Message]) {
        self.driver().writer().write(messages).await.unwrap();
    }

    async fn refused(&self, messages: &[Message]) -> WriteError {
        self.driver().writer().write(messages).await.unwrap_err()
    }

    async fn drain(&self) -> BTreeMap<String, usize> {
        self.reading().await.drain().await
    }
}

pub(crate) fn kinds(error: &WriteError) -> HashSet<ErrorKind> {
    let failures = error.failures().iter();
    failures.map(|(_, error)| error.kind()).collect()
}

/// Makes tests of the functions here.
macro_rules! tests_of {
    ($setup:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                crate::failing::$case::<$setup>().await;
            }
        )*
    };
}
pub(crate) use tests_of;

pub(crate) async fn of_a_batch_exactly_those_that_failed_are_named<S: Setup>() {
    let setup = S::new("partial").await;
    let messages = setup.messages(25, 25);
    let some = Fault::FailEntries(&["1", "4"], "InternalError", false);
    setup.proxy().fail(S::BATCH, [some]);
    let error = setup.refused(&messages).await;
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed.len(), 2, "{error}");
    assert_eq!(failed[1] - failed[0], 3);
    assert!(error.is_retryable());
    // Written again, only those: everything is there once.
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    setup.write(&again).await;
    assert_eq!(setup.drain().await, once(0..25));
}

pub(crate) async fn throttling_errors_of_the_server_and_resets_pass<S: Setup>() {
    let setup = S::new("passing").await;
    for fault in [
        Fault::Refuse(400, S::THROTTLED),
        Fault::Refuse(429, "TooManyRequestsException"),
        Fault::Refuse(500, "InternalError"),
        Fault::Refuse(503, "ServiceUnavailable"),
        Fault::Reset,
        Fault::Stall,
    ] {
        let requests = || setup.proxy().requests(S::BATCH).len();
        let before = requests();
        setup.proxy().fail(S::BATCH, [fault.clone()]);
        setup.write(&setup.messages(3, 3)).await;
        assert_eq!(requests(), before + 2, "{fault:?}");
    }
    let each_six_times = (0..3).map(|n| (n.to_string(), 6)).collect();
    assert_eq!(setup.drain().await, each_six_times);
}

pub(crate) async fn a_server_that_stays_away_fails_all_and_says_that_trying_again_may_help<
    S: Setup,
>() {
    let setup = S::new("away").await;
    let messages = setup.messages(12, 12);
    for (fault, kind) in [
        (Fault::Refuse(400, S::THROTTLED), ErrorKind::Unavailable),
        (Fault::Refuse(429, "Throttling"), ErrorKind::Unavailable),
        (Fault::Refuse(500, "InternalError"), ErrorKind::Unavailable),
        (Fault::Reset, ErrorKind::Unavailable),
        (Fault::Stall, ErrorKind::Timeout),
    ] {
        // Three attempts for each of two batches.
        setup.proxy().fail(S::BATCH, vec![fault.clone(); 6]);
        let error = setup.refused(&messages).await;
        assert!(error.indices().eq(0..12), "{error}");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(kinds(&error), [kind].into(), "{fault:?}: {error:?}");
    }
    setup.write(&messages).await;
    assert_eq!(setup.drain().await, once(0..12));
}

pub(crate) async fn with_fifo_nothing_overtakes_what_failed<S: Setup>() {
    let setup = S::fifo("overtake").await;
    // Message 9 is of key 1, as are 11, 13, ...; the next batches hold back theirs.
    let one = Fault::FailEntries(&["9"], "InternalError", false);
    setup.proxy().fail(S::BATCH, [one]);
    let messages = setup.messages(25, 2);
    let error = setup.refused(&messages).await;
    let failed: Vec<_> = error.indices().collect();
    assert_eq!(failed, [9, 11, 13, 15, 17, 19, 21, 23]);
    assert!(error.is_retryable());
    let again: Vec<_> = failed.iter().map(|at| messages[*at].clone()).collect();
    setup.write(&again).await;

    let mut reading = setup.reading().await;
    let mut seen: [Vec<usize>; 2] = Default::default();
    while seen[0].len() + seen[1].len() < 25 {
        let number: usize = text(&reading.message().await).parse().unwrap();
        seen[number % 2].push(number);
    }
    let in_order = |keys: &Vec<usize>| keys.is_sorted();
    assert!(seen.iter().all(in_order), "{seen:?}");
}

pub(crate) async fn what_is_too_large_is_refused_by_index_before_anything_is_sent<S: Setup>() {
    let setup = S::new("large").await;
    let mut messages = setup.messages(5, 5);
    let plain = || Message::builder(setup.stream());
    // By its data; by its headers.
    messages[1] = plain().data(vec![0xff; (180 << 10) + 1]).build().unwrap();
    let header = "v".repeat(256 << 10);
    messages[3] = plain().data("x").header("h", header).build().unwrap();
    let error = setup.refused(&messages).await;
    assert_eq!(error.indices().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(kinds(&error), [ErrorKind::TooLarge].into());
    assert_eq!(setup.drain().await, once([0, 2, 4]));
}

pub(crate) async fn large_messages_go_in_several_requests<S: Setup>() {
    let setup = S::new("bytes").await;
    let large = |n: usize| {
        let mut data = n.to_string().into_bytes();
        data.resize(100 << 10, b' ');
        Message::builder(setup.stream()).data(data).build().unwrap()
    };
    let messages: Vec<_> = (0..5).map(large).collect();
    setup.write(&messages).await;
    assert_eq!(setup.proxy().requests(S::BATCH).len(), 3);
    assert_eq!(setup.drain().await.len(), 5);
}

pub(crate) async fn a_clock_that_is_wrong_is_said<S: Setup>() {
    let setup = S::new("skew").await;
    let skewed = Fault::Refuse(403, "RequestTimeTooSkewed");
    setup.proxy().fail(S::BATCH, vec![skewed; 3]);
    let error = setup.refused(&setup.messages(1, 1)).await;
    let error = &error.failures()[0].1;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("clock"), "{error}");
}

pub(crate) async fn a_name_that_cannot_be_is_refused<S: Setup>() {
    let setup = S::new("name").await;
    let odd = Message::builder(StreamName::new("a/b").unwrap()).data("x");
    let error = setup.refused(&[odd.build().unwrap()]).await;
    assert_eq!(kinds(&error), [ErrorKind::InvalidMessage].into());
    assert_eq!(setup.proxy().requests(S::BATCH).len(), 0);
}
