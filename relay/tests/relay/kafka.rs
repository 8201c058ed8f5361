//! PostgreSQL to Kafka, on real servers.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use streams_core::{Driver as _, Message, ReadOptions, Received, StartFrom, StreamName, ksuid};
use streams_kafka::{Kafka, KafkaOptions};
use streams_services::Service;
use streams_sql::{Outbox, Postgres};

use crate::postgres::{Database, MODES, messages};
use crate::support::{
    LONG, Running, SECRET, duplicates, finish, get, metric, program, refusal, until,
};

/// A topic of its own.
pub(crate) struct Topic {
    kafka: Kafka,
    pub(crate) name: StreamName,
    /// The URL of the destination.
    pub(crate) url: String,
}

impl Topic {
    pub(crate) fn new(brokers: &str) -> Self {
        Self {
            kafka: Kafka::builder(brokers).build().unwrap(),
            name: StreamName::new(format!("payment.made.{}", ksuid().unwrap())).unwrap(),
            url: format!("kafka://{brokers}?create_partitions=3"),
        }
    }

    fn messages(&self, key: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
        messages(self.name.as_str(), key, numbers)
    }

    /// The ids that it has, by key, then deletes it.
    pub(crate) async fn take(self) -> BTreeMap<String, Vec<String>> {
        let mut options = ReadOptions::new(&self.name)
            .unwrap()
            .start_from(StartFrom::Earliest);
        options.driver.insert(KafkaOptions::new().until_end());
        let mut subscription = self.kafka.reader().subscribe(&options).await.unwrap();
        let mut deliveries = Vec::new();
        let many = NonZeroUsize::new(1000).unwrap();
        while subscription.receive(many, &mut deliveries).await.unwrap() != Received::End {}
        subscription.close().await.unwrap();
        let mut ids = BTreeMap::<_, Vec<_>>::new();
        for one in deliveries {
            let id = one.message.id().to_string();
            let (key, _) = id.split_once('-').unwrap();
            ids.entry(key.to_owned()).or_default().push(id);
        }
        self.kafka.delete_topic(&self.name).await.unwrap();
        ids
    }
}

/// What a relay logs when it has begun to work.
fn begins(mode: &str) -> &'static str {
    match mode {
        "wal" => "the relay has the slot",
        _ => "the relay is the active one",
    }
}

/// Waits until an outbox is empty.
async fn drained(outbox: &Outbox<Postgres>) {
    let start = Instant::now();
    while outbox.pending().await.unwrap() > 0 {
        assert!(start.elapsed() < LONG, "it never was");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// With everything that is logged: secrets are not.
#[tokio::test]
async fn committed_messages_arrive_in_order_and_rolled_back_ones_never() {
    let brokers = Service::Kafka.address().unwrap();
    for mode in MODES {
        let database = Database::new().await;
        let topic = Topic::new(&brokers);
        let mut settings = database.settings(mode, &topic.url);
        settings.push(("log-filter", "trace"));
        let mut chores = program(&settings);
        chores.args(["--migrate", "--check"]);
        let (code, output, errors) = finish(chores);
        assert_eq!(code, Some(0), "{errors}");
        assert!(output.contains("source and destination answer"), "{output}");
        assert!(!errors.contains(SECRET), "{errors}");

        // Some before it starts, some while it runs.
        database.write(&topic.messages("a", 0..50), true).await;
        database.write(&topic.messages("a", 900..950), false).await;
        let mut relay = Running::start(program(&settings));
        let address = relay.address();
        relay.logged(begins(mode));
        for n in 0..50 {
            database.write(&topic.messages("b", n..n + 1), true).await;
        }
        drained(&database.outbox).await;
        let (_, metrics) = get(&address, "/metrics");
        assert!(
            metrics.contains("streams_relay_messages_total"),
            "{metrics}"
        );
        assert!(!metrics.contains(SECRET), "{metrics}");
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        assert!(relay.log().contains("messages=100"), "{}", relay.log());
        assert!(!relay.log().contains(SECRET), "{}", relay.log());

        let ids = topic.take().await;
        assert_eq!(ids.len(), 2);
        for (key, ids) in ids {
            let expected: Vec<_> = (0..50).map(|n| format!("{key}-{n}")).collect();
            assert_eq!(ids, expected);
        }
        database.drop().await;
    }
}

const BACKLOG: usize = 3000;

#[tokio::test]
async fn kill_in_a_backlog_loses_nothing() {
    let brokers = Service::Kafka.address().unwrap();
    for mode in MODES {
        let database = Database::new().await;
        let topic = Topic::new(&brokers);
        database.outbox.migrate().await.unwrap();
        let mut settings = database.settings(mode, &topic.url);
        settings.extend([("relay-rows", "20"), ("relay-lease", "1s")]);
        if mode == "wal" {
            // The slot is to be there before the rows, so that they come from the log.
            let mut relay = Running::start(program(&settings));
            relay.logged(begins(mode));
            relay.signal(Signal::TERM);
            assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        }
        let (a, b) = (
            topic.messages("a", 0..BACKLOG),
            topic.messages("b", 0..BACKLOG),
        );
        let both: Vec<_> = a
            .iter()
            .zip(&b)
            .flat_map(|(a, b)| [a.clone(), b.clone()])
            .collect();
        database.write(&both, true).await;

        let mut relay = Running::start(program(&settings));
        let address = relay.address();
        until(|| metric(&address, "streams_relay_messages_total") >= Some(100.0));
        relay.signal(Signal::KILL);
        assert_eq!(relay.wait().code(), None);
        let pending = database.outbox.pending().await.unwrap();
        assert!(pending > 0, "it was killed before the end");

        let mut relay = Running::start(program(&settings));
        drained(&database.outbox).await;
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());

        let ids = topic.take().await;
        let again = duplicates(&ids["a"], &a) + duplicates(&ids["b"], &b);
        println!("{mode}: killed with {pending} rows pending; {again} messages came again");
        database.drop().await;
    }
}

/// It is killed, and comes back.
#[tokio::test]
async fn a_destination_that_is_down_makes_it_unready_until_it_is_back() {
    let server = streams_services::Kafka::builder().start().unwrap();
    for mode in MODES {
        let database = Database::new().await;
        let topic = Topic::new(&server.address());
        database.outbox.migrate().await.unwrap();
        let mut settings = database.settings(mode, &topic.url);
        settings.extend([
            ("relay-lease", "2s"),
            ("relay-destination-backoff", "100ms..500ms"),
        ]);
        let mut relay = Running::start(program(&settings));
        let address = relay.address();
        let written = topic.messages("a", 0..1000);
        database.write(&written[..500], true).await;
        drained(&database.outbox).await;
        assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));

        server.kill();
        database.write(&written[500..], true).await;
        until(|| get(&address, "/readyz").0 == 503);
        let (_, reason) = get(&address, "/readyz");
        assert!(
            reason.starts_with("the destination takes nothing: "),
            "{reason}"
        );
        assert_eq!(get(&address, "/healthz").0, 200);
        assert_eq!(database.outbox.pending().await.unwrap(), 500);

        server.restart().unwrap();
        server.wait_ready().unwrap();
        drained(&database.outbox).await;
        assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
        relay.signal(Signal::TERM);
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        duplicates(&topic.take().await["a"], &written);
        database.drop().await;
    }
}

#[tokio::test]
async fn a_destination_that_does_not_answer_fails_the_check() {
    let database = Database::new().await;
    let nobody =
        format!("kafka://me:{SECRET}@127.0.0.1:1?sasl=scram-sha-512&connect_timeout_ms=300");
    let mut settings = database.settings("poll", &nobody);
    settings.push(("log-filter", "trace"));
    let mut check = program(&settings);
    check.args(["--migrate", "--check"]);
    let (code, output, errors) = finish(check);
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("connect on kafka"), "{errors}");
    assert!(!errors.contains(SECRET), "{errors}");
    database.drop().await;
}

#[test]
fn urls_of_destinations_that_are_wrong_are_refused() {
    #[rustfmt::skip]
    let table = [
        ("pigeon://me:hunter2@roof",
            "no driver for the URL scheme `pigeon`; this application has chanbuf, kafka"),
        ("kafka://host:9092?speed=hunter2",
            "the driver `kafka` has no URL parameter `speed`; it takes "),
        ("kafka://me:hunter2@host:9092",
            "kafka: the URL has a user but does not say how to log in; add `sasl=scram-sha-512`, "),
    ];
    for (url, start) in table {
        let said = refusal(&["--source-url=sqlite:a", "--destination-url", url]);
        let start = format!("`destination.url` is wrong: {start}");
        assert!(said.starts_with(&start), "{said}");
    }
}
