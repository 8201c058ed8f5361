//! Redis as a source and as a destination, on real servers.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, FromRedisValue as _, Value};
use rustix::process::Signal;
use serde_json::Value as Json;
use streams_core::{Driver as _, Message, dead_letter};
use streams_redis::{EntryId, Redis};
use streams_services::{RedisCluster, Server, Service};

use crate::sqlite::write;
use crate::support::until;
use crate::support::{Folder, LONG, Running, SECRET, duplicates, finish, get, message, program};

const GROUP: &str = "streams-relay";

/// A stream of its own.
struct Stream {
    /// That of its server.
    url: String,
    name: String,
}

impl Stream {
    fn shared() -> Self {
        Self::at(&Service::Redis.address().unwrap())
    }

    fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            name: format!("payment.made.{:016x}", fastrand::u64(..)),
        }
    }

    /// A new one each time: the connection of one that was there when the server was killed is broken.
    fn driver(&self) -> Redis {
        Redis::builder(&self.url).build().unwrap()
    }

    fn messages(&self, keys: usize, numbers: std::ops::Range<usize>) -> Vec<Message> {
        let one = |n| message(&self.name, &format!("k{}", n % keys), n);
        numbers.map(one).collect()
    }

    async fn write(&self, messages: &[Message]) {
        self.driver().writer().write(messages).await.unwrap();
    }

    /// All that it has had, of another stream of the same server where it is named.
    async fn has(&self, name: &str) -> Vec<Message> {
        let (driver, mut all, mut from) = (self.driver(), Vec::new(), EntryId::MIN);
        loop {
            let page = driver.range(name, from..=EntryId::MAX, 1000);
            let page = page.await.unwrap();
            let Some((last, _)) = page.last() else {
                return all;
            };
            from = last.next();
            all.extend(page.into_iter().map(|(_, message)| message));
        }
    }

    async fn ids(&self) -> Vec<String> {
        let all = self.has(&self.name).await;
        all.iter().map(|one| one.id().to_string()).collect()
    }

    /// How many entries the group has pending, and how many it has not read: the server's own `lag` is
    /// wrong when it was started again.
    async fn left(&self) -> (i64, usize) {
        let client = redis::Client::open(&*self.url).unwrap();
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LONG))
            .set_response_timeout(Some(LONG));
        let connection = client.get_multiplexed_async_connection_with_config(&patient);
        let mut info = redis::cmd("XINFO");
        info.arg("GROUPS")
            .arg(format!("pulse:stream:{}", self.name));
        let groups = info.query_async(&mut connection.await.unwrap()).await;
        let groups: Vec<HashMap<String, Value>> = groups.unwrap();
        let Some(group) = groups.first() else {
            return (0, usize::MAX); // nobody has begun
        };
        let pending = i64::from_redis_value(group["pending"].clone()).unwrap();
        let read = String::from_redis_value(group["last-delivered-id"].clone()).unwrap();
        let read: EntryId = read.parse().unwrap();
        let driver = self.driver();
        let unread = driver.range(&self.name, read.next()..=EntryId::MAX, 1 << 20);
        (pending, unread.await.unwrap().len())
    }

    /// Waits until the group is done with all that there is.
    async fn drained(&self) {
        let start = Instant::now();
        while self.left().await != (0, 0) {
            assert!(start.elapsed() < LONG, "{:?}", self.left().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Settings of a relay that reads it.
    fn settings<'a>(&'a self, destination: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![
            ("source-url", &self.url),
            ("redis-streams", &self.name),
            ("destination-url", destination),
            ("relay-lease", "2s"),
        ]
    }

    /// The value of a metric of it.
    fn metric(&self, address: &str, name: &str) -> Option<f64> {
        let (_, body) = get(address, "/metrics");
        let start = format!("{name}{{stream=\"{}\"}} ", self.name);
        let line = body.lines().find_map(|line| line.strip_prefix(&start));
        line.map(|value| value.parse().unwrap())
    }

    async fn end(self) {
        self.driver().delete_stream(&self.name).await.unwrap();
    }
}

/// Stops it gracefully; its log.
fn stop(relay: &mut Running) -> String {
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    relay.log()
}

/// The id and the stream of a line.
fn line(text: &str) -> (String, String) {
    let line: Json = serde_json::from_str(text).unwrap();
    let field = |name: &str| line[name].as_str().unwrap().to_owned();
    (field("id"), field("stream"))
}

fn id(text: &str) -> String {
    line(text).0
}

/// The process has the cryptography of AWS too: the two do not get in each other's way.
#[tokio::test]
async fn an_outbox_goes_to_a_stream_with_tls_and_no_secret_is_shown() {
    let recipe = streams_services::Redis::new().secure().unwrap();
    let server = recipe.clone().start().unwrap();
    let security = recipe.security().unwrap();
    let folder = Folder::new();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, security.authority_pem()).unwrap();
    let (user, password) = (security.user(), security.password());
    let url = |password: &str| {
        let (address, ca) = (server.address(), ca.display());
        format!("rediss://{user}:{password}@{address}?ca_file={ca}")
    };
    let destination = Stream::at(&url(password));
    let messages = destination.messages(3, 0..100);
    let source = folder.url();
    write(&source, &messages).await;

    let settings = [
        ("source-url", &*source),
        ("destination-url", &destination.url),
        ("log-filter", "trace"),
    ];
    let mut check = program(&settings);
    check.arg("--check");
    let (code, output, errors) = finish(check);
    assert_eq!(code, Some(0), "{errors}");
    assert!(output.contains("source and destination answer"), "{output}");
    assert!(!errors.contains(password), "{errors}");

    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    until(|| {
        let (_, metrics) = get(&address, "/metrics");
        metrics.contains("streams_relay_messages_total{table=\"streams_egress\"} 100\n")
    });
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    assert!(!get(&address, "/metrics").1.contains(password));
    let log = stop(&mut relay);
    assert!(!log.contains(password), "{log}");
    let arrived = destination.has(&destination.name).await;
    assert_eq!(arrived, messages, "as they were, in the order written");

    let wrong = url(SECRET);
    let mut check = program(&[("source-url", &*source), ("destination-url", &wrong)]);
    check.args(["--check", "--log-filter=trace"]);
    let (code, _, errors) = finish(check);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("refuses user and password"), "{errors}");
    assert!(!errors.contains(SECRET), "{errors}");
}

#[tokio::test]
async fn a_cluster_is_a_destination_and_a_source() {
    let cluster = RedisCluster::start(3).unwrap();
    let url = format!("redis+cluster://{}", cluster.addresses()[0]);
    let stream = Stream::at(&url);
    let messages = stream.messages(1, 0..10);
    let folder = Folder::new();
    let source = folder.url();
    write(&source, &messages).await;
    let to = [("source-url", &*source), ("destination-url", &*url)];
    let from = stream.settings("stdout:");
    for settings in [&to[..], &from[..]] {
        let mut check = program(settings);
        check.arg("--check");
        let (code, _, errors) = finish(check);
        assert_eq!(code, Some(0), "{errors}");
    }
    let mut first = Running::start(program(&to));
    let mut second = Running::start(program(&from));
    let ids: Vec<_> = (0..10).map(|_| id(&second.line())).collect();
    assert_eq!(duplicates(&ids, &messages), 0);
    stop(&mut first);
    stop(&mut second);
}

#[tokio::test]
async fn entries_become_lines_and_are_acknowledged() {
    let (one, other) = (Stream::shared(), Stream::shared());
    let both = format!("{}, {}", one.name, other.name);
    let mut settings = one.settings("stdout:");
    settings.retain(|(name, _)| *name != "redis-streams");
    settings.extend([("redis-streams", &*both), ("redis-group", "archive")]);
    for flag in ["--check", "--migrate", "--migrate"] {
        let mut chore = program(&settings);
        chore.arg(flag);
        let (code, output, errors) = finish(chore);
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(output.lines().count(), 1, "{output}");
    }

    // Some before it starts, some while it runs.
    let mut written = HashMap::new();
    for stream in [&one, &other] {
        let messages = stream.messages(7, 0..200);
        stream.write(&messages[..100]).await;
        written.insert(stream.name.clone(), messages);
    }
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    let mut printed: HashMap<_, Vec<_>> = HashMap::new();
    let mut print = |relay: &mut Running, count| {
        for _ in 0..count {
            let (id, stream) = line(&relay.line());
            printed.entry(stream).or_default().push(id);
        }
    };
    print(&mut relay, 200);
    for stream in [&one, &other] {
        stream.write(&written[&stream.name][100..]).await;
    }
    print(&mut relay, 200);
    for stream in [&one, &other] {
        stream.drained().await;
        let metric = |name| stream.metric(&address, name);
        assert_eq!(metric("streams_relay_messages_total"), Some(200.0));
        assert_eq!(metric("streams_relay_failures_total"), Some(0.0));
        assert_eq!(metric("streams_relay_set_aside_total"), Some(0.0));
    }
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    let log = stop(&mut relay);
    assert!(log.contains("messages=400"), "{log}");
    assert_eq!(relay.rest(), "");
    for stream in [one, other] {
        let (written, printed) = (&written[&stream.name], &printed[&stream.name]);
        for key in 0..7 {
            let key = format!("k{key}-");
            let of_key = |id: &&String| id.starts_with(&key);
            let written: Vec<_> = written.iter().map(|one| one.id().to_string()).collect();
            let expected: Vec<_> = written.iter().filter(of_key).collect();
            assert_eq!(printed.iter().filter(of_key).collect::<Vec<_>>(), expected);
        }
        assert_eq!(stream.left().await, (0, 0));
        stream.end().await;
    }
}

const BACKLOG: usize = 3000;
const ROWS: usize = 20;

#[cfg(feature = "kafka")]
#[tokio::test]
async fn killed_again_and_again_it_loses_nothing_on_the_way_to_kafka() {
    let topic = crate::kafka::Topic::new(&Service::Kafka.address().unwrap());
    let mut stream = Stream::shared();
    stream.name = topic.name.to_string();
    let messages = stream.messages(7, 0..BACKLOG);
    stream.write(&messages).await;
    let rows = ROWS.to_string();
    let mut settings = stream.settings(&topic.url);
    settings.push(("relay-rows", &rows));
    // A write has half of it. It is to be enough on a busy machine: a write given up is repeated.
    settings.retain(|(name, _)| *name != "relay-lease");
    settings.push(("relay-lease", "5s"));
    for killed in 1.. {
        let mut relay = Running::start(program(&settings));
        let address = relay.address();
        let some = if killed > 3 { 0.0 } else { 200.0 };
        until(|| stream.metric(&address, "streams_relay_messages_total") >= Some(some));
        if killed > 3 {
            stream.drained().await;
            stop(&mut relay);
            break;
        }
        relay.signal(Signal::KILL);
        assert_eq!(relay.wait().code(), None);
        assert_ne!(stream.left().await, (0, 0), "it was killed before the end");
    }
    let arrived: Vec<_> = topic.take().await.into_values().flatten().collect();
    let once: BTreeSet<_> = arrived.iter().cloned().collect();
    let written = messages.iter().map(|one| one.id().to_string()).collect();
    assert_eq!(once, written, "none lost");
    let again = arrived.len() - once.len();
    println!("killed 3 times; {again} messages came again");
    // What was fetched and not settled, each time.
    assert!(again <= 3 * 4 * ROWS, "{again} messages came again");
    stream.end().await;
}

#[tokio::test]
async fn sigterm_in_a_backlog_loses_and_repeats_nothing() {
    let stream = Stream::shared();
    let messages = stream.messages(7, 0..BACKLOG);
    stream.write(&messages).await;
    let rows = ROWS.to_string();
    let mut settings = stream.settings("stdout:");
    settings.push(("relay-rows", &rows));
    let mut relay = Running::start(program(&settings));
    let mut printed: Vec<_> = (0..300).map(|_| id(&relay.line())).collect();
    relay.signal(Signal::TERM);
    printed.extend(relay.rest().lines().map(id));
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    assert!(printed.len() < BACKLOG, "it stopped before the end");

    let mut relay = Running::start(program(&settings));
    while printed.len() < BACKLOG {
        printed.push(id(&relay.line()));
    }
    stream.drained().await;
    stop(&mut relay);
    assert_eq!(relay.rest(), "");
    let once: BTreeSet<_> = printed.iter().cloned().collect();
    let written = messages.iter().map(|one| one.id().to_string()).collect();
    assert_eq!(once, written, "none lost, none twice");
    stream.end().await;
}

/// It is killed, and comes back.
#[tokio::test]
async fn a_destination_that_is_down_is_waited_for_and_holds_up_what_is_read() {
    let server = streams_services::Redis::new().start().unwrap();
    let stream = Stream::shared();
    let mut destination = Stream::at(&server.url());
    destination.name.clone_from(&stream.name);
    let rows = ROWS.to_string();
    let mut settings = stream.settings(&destination.url);
    settings.extend([
        ("relay-rows", &*rows),
        ("relay-attempts", "1"), // of which none is counted
        ("relay-destination-backoff", "50ms..200ms"),
    ]);
    let messages = stream.messages(1, 0..1000);
    stream.write(&messages[..500]).await;
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    until(|| stream.metric(&address, "streams_relay_messages_total") == Some(500.0));
    stream.drained().await;
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));

    server.kill();
    stream.write(&messages[500..]).await;
    until(|| get(&address, "/readyz").0 == 503);
    let (_, reason) = get(&address, "/readyz");
    assert!(
        reason.starts_with("the destination takes nothing: "),
        "{reason}"
    );
    for _ in 0..3 {
        relay.logged("the destination takes nothing");
    }
    let (pending, unread) = stream.left().await;
    assert!(
        pending <= 4 * 20 && unread >= 500 - 4 * ROWS,
        "{pending} {unread}"
    );

    server.restart().unwrap();
    server.wait_ready().unwrap();
    stream.drained().await;
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    let log = stop(&mut relay);
    assert!(log.contains("set_aside=0"), "{log}");
    assert_eq!(duplicates(&destination.ids().await, &messages), 0);
    stream.end().await;
}

/// While it is down, a stop gives back what waits, and does not wait for it.
#[tokio::test]
async fn it_stops_while_the_destination_is_down() {
    let stream = Stream::shared();
    stream.write(&stream.messages(2, 0..10)).await;
    let mut relay = Running::start(program(&stream.settings("redis://127.0.0.1:9")));
    relay.logged("the destination takes nothing");
    let log = stop(&mut relay);
    assert!(log.contains("messages=0"), "{log}");
    // Not after a lease, but at once, and all of them.
    let mut next = Running::start(program(&stream.settings("stdout:")));
    (0..10).for_each(|_| drop(next.line()));
    stream.drained().await;
    stop(&mut next);
    stream.end().await;
}

fn own_server() -> (Server, Stream) {
    let server = streams_services::Redis::new().start().unwrap();
    let stream = Stream::at(&server.url());
    (server, stream)
}

#[tokio::test]
async fn a_source_that_is_down_is_waited_for() {
    let (server, stream) = own_server();
    let messages = stream.messages(1, 0..30);
    stream.write(&messages[..10]).await;
    server.kill();
    let settings = stream.settings("stdout:");
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    let (code, reason) = get(&address, "/readyz");
    assert_eq!(code, 503);
    assert!(reason.contains("cannot be reached"), "{reason}");
    // A stop is heard meanwhile too.
    let mut other = Running::start(program(&settings));
    other.logged("cannot open the subscription");
    stop(&mut other);

    let mut ids = Vec::new();
    for end in [10, 20, 30] {
        server.restart().unwrap();
        server.wait_ready().unwrap();
        stream.write(&messages[ids.len().max(10)..end]).await;
        while ids.len() < end {
            ids.push(id(&relay.line()));
        }
        stream.drained().await;
        until(|| get(&address, "/readyz").0 == 200);
        server.kill();
    }
    let log = stop(&mut relay);
    assert!(!log.contains("entries are gone"), "{log}");
    assert_eq!(duplicates(&ids, &messages), 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_written_is_set_aside_beside_its_stream() {
    let stream = Stream::shared();
    let prefix = format!("relayed-{:016x}:", fastrand::u64(..));
    let url = format!("{}?prefix={prefix}&largest_message=100", stream.url);
    let destination = Stream::at(&url);
    let mut messages = stream.messages(2, 0..20);
    let large = messages[4].to_builder().data("x".repeat(101));
    messages[4] = large.build().unwrap();
    let mut settings = stream.settings(&url);
    settings.extend([("relay-attempts", "3"), ("relay-row-backoff", "10ms..20ms")]);
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    stream.write(&messages).await;
    stream.drained().await;
    let metric = |name| stream.metric(&address, name);
    assert_eq!(metric("streams_relay_set_aside_total"), Some(1.0));
    assert_eq!(metric("streams_relay_failures_total"), Some(3.0));
    assert_eq!(get(&address, "/readyz").0, 200);
    let log = stop(&mut relay);
    assert!(log.contains("set_aside=1"), "{log}");

    let dead_letters = format!("{}.dlq", stream.name);
    let dead = stream.has(&dead_letters).await;
    assert_eq!(dead.len(), 1);
    let header = |name| dead[0].headers().get_str(name).unwrap();
    assert_eq!(header(dead_letter::headers::ATTEMPTS), "3");
    assert_eq!(header(dead_letter::headers::GROUP), GROUP);
    assert!(header(dead_letter::headers::REASON).contains("larger"));
    assert_eq!(dead[0].data(), messages[4].data());
    // Its key went on when it was set aside, and the other key at once.
    let arrived = destination.has(&stream.name).await;
    let arrived: BTreeSet<_> = arrived.iter().map(|one| one.id().to_string()).collect();
    let expected = messages.iter().map(|one| one.id().to_string());
    let expected: BTreeSet<_> = expected.filter(|id| id != dead[0].id().as_str()).collect();
    assert_eq!(arrived, expected);
    destination
        .driver()
        .delete_stream(&stream.name)
        .await
        .unwrap();
    stream.driver().delete_stream(&dead_letters).await.unwrap();
    stream.end().await;
}

#[tokio::test]
async fn relays_share_a_group() {
    let stream = Stream::shared();
    let prefix = format!("relayed-{:016x}:", fastrand::u64(..));
    let url = format!("{}?prefix={prefix}", stream.url);
    let settings = stream.settings(&url);
    let mut relays = [(); 2].map(|()| Running::start(program(&settings)));
    let addresses = [0, 1].map(|n: usize| relays[n].address());
    let wrote = |n: usize| stream.metric(&addresses[n], "streams_relay_messages_total");
    let (start, mut written) = (Instant::now(), Vec::new());
    while [0, 1].map(wrote).iter().any(|count| *count <= Some(0.0)) {
        assert!(start.elapsed() < LONG, "one has all of them");
        let more = stream.messages(5, written.len()..written.len() + 50);
        stream.write(&more).await;
        written.extend(more);
    }
    stop(&mut relays[0]);
    let more = stream.messages(5, written.len()..written.len() + 50);
    stream.write(&more).await;
    written.extend(more);
    stream.drained().await;
    stop(&mut relays[1]);
    let destination = Stream::at(&url);
    let arrived = destination.has(&stream.name).await;
    let mut arrived: Vec<_> = arrived.iter().map(|one| one.id().to_string()).collect();
    let mut expected: Vec<_> = written.iter().map(|one| one.id().to_string()).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected, "each once");
    destination
        .driver()
        .delete_stream(&stream.name)
        .await
        .unwrap();
    stream.end().await;
}

#[tokio::test]
async fn a_group_with_another_lease_is_said_and_can_be_migrated() {
    let stream = Stream::shared();
    let mut settings = stream.settings("stdout:");
    stop(&mut {
        let mut relay = Running::start(program(&settings));
        stream.write(&stream.messages(1, 0..1)).await;
        relay.line();
        relay
    });
    settings.retain(|(name, _)| *name != "relay-lease");
    settings.push(("relay-lease", "3s"));
    let (code, _, errors) = finish(program(&settings));
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        errors.contains("change it for all with --migrate"),
        "{errors}"
    );
    let mut migrate = program(&settings);
    migrate.arg("--migrate");
    let (code, output, errors) = finish(migrate);
    assert_eq!(
        (code, &*output),
        (Some(0), "the streams are there\n"),
        "{errors}"
    );
    let mut relay = Running::start(program(&settings));
    stream.write(&stream.messages(1, 1..2)).await;
    assert_eq!(id(&relay.line()), "k0-1");
    stop(&mut relay);
    stream.end().await;
}

#[test]
fn a_server_that_is_not_there_fails_the_check() {
    let nobody = format!("redis://me:{SECRET}@127.0.0.1:9");
    let folder = Folder::new();
    let sqlite = folder.url();
    let to = [("source-url", &*sqlite), ("destination-url", &*nobody)];
    let from = [
        ("source-url", &*nobody),
        ("redis-streams", "a"),
        ("destination-url", "stdout:"),
    ];
    let mut migrate = program(&to);
    migrate.arg("--migrate");
    assert_eq!(finish(migrate).0, Some(0));
    for settings in [&to[..], &from[..]] {
        let mut check = program(settings);
        check.args(["--check", "--log-filter=trace"]);
        let (code, output, errors) = finish(check);
        assert_eq!((code, &*output), (Some(1), ""), "{errors}");
        assert!(errors.contains("cannot be reached"), "{errors}");
        assert!(!errors.contains(SECRET), "{errors}");
    }
}
