//! Together with the Go library `pulse` itself: its events, its sinks.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis::Cmd;
use streams_core::{Driver as _, Message, ReadOptions, SettleAction, Subscription};
use streams_redis::{EVENT_NAME, TOPIC};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::other::Other;
use crate::support::{
    LEASE, PATIENCE, Test, nothing_comes, numbers, pending_of, settle, take, text,
};

/// So long that nothing is taken over.
const LONG: Duration = Duration::from_secs(60);

/// The program `tests/pulse`, built once.
async fn program() -> Command {
    static BUILT: OnceCell<std::path::PathBuf> = OnceCell::const_new();
    let build = async || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pulse");
        let build = move || streams_services::go_program("pulse", &source).unwrap();
        tokio::task::spawn_blocking(build).await.unwrap()
    };
    let mut program = Command::new(BUILT.get_or_init(build).await);
    program.kill_on_drop(true);
    program
}

/// The program is there before anything is held for a time.
async fn test() -> Test {
    program().await;
    Test::shared().await
}

/// A name of its own: members of pulse with one name know of each other, whatever they read.
fn group(test: &Test) -> String {
    format!("sink-of-{}", test.stream)
}

fn in_group(test: &Test) -> ReadOptions {
    test.options().group(group(test)).unwrap()
}

async fn member(test: &Test) -> Box<dyn Subscription> {
    test.read(&in_group(test)).await
}

/// Has pulse add events to the stream.
async fn add(test: &Test, name: &str, topic: &str, payloads: &[String]) {
    let mut add = program().await;
    add.arg("add")
        .arg(address(test))
        .args([&test.stream, name, topic]);
    assert!(add.args(payloads).status().await.unwrap().success());
}

fn address(test: &Test) -> &str {
    test.url.strip_prefix("redis://").unwrap()
}

/// A member of a sink, which is a process of its own.
struct Sink {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Dropped, it ends.
    input: Option<ChildStdin>,
}

impl Sink {
    /// One that acknowledges what it gets (`ack`), or holds it (`hold`).
    async fn start(test: &Test, grace: Duration, what: &str) -> Self {
        let mut sink = program().await;
        sink.arg("sink")
            .arg(address(test))
            .args([&test.stream, &group(test)]);
        sink.arg(format!("{}ms", grace.as_millis())).arg(what);
        sink.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = sink.spawn().unwrap();
        let mut this = Self {
            lines: BufReader::new(process.stdout.take().unwrap()).lines(),
            input: process.stdin.take(),
            process,
        };
        assert_eq!(this.line().await, "ready");
        this
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("nothing came").unwrap().expect("it has ended")
    }

    /// The payload of the next event.
    async fn payload(&mut self) -> String {
        let line = self.line().await;
        line.rsplit_once('\t').unwrap().1.to_owned()
    }

    async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    async fn close(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().await.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_go_are_read_here() {
    let test = test().await;
    add(&test, "OrderPaid", "eu", &numbers(0..5)).await;
    for options in [test.options(), in_group(&test)] {
        let mut reader = test.read(&options).await;
        let deliveries = take(&mut *reader, 5).await;
        for (delivery, number) in deliveries.iter().zip(numbers(0..5)) {
            let headers = delivery.message.headers();
            assert_eq!(headers.get_str(EVENT_NAME), Some("OrderPaid"));
            assert_eq!(headers.get_str(TOPIC), Some("eu"));
            assert_eq!(text(&delivery.message), number);
        }
        settle(&mut *reader, deliveries, SettleAction::Ack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_from_here_are_events_to_go() {
    let test = test().await;
    let event = Message::builder(&test.stream)
        .data("data")
        .key("key")
        .header(EVENT_NAME, "OrderPaid")
        .header(TOPIC, "eu")
        .header("trace", "1");
    test.write(&[event.build().unwrap(), test.message("plain")])
        .await;
    let mut sink = Sink::start(&test, LEASE, "ack").await;
    assert_eq!(sink.line().await, "OrderPaid\teu\tdata");
    assert_eq!(sink.line().await, format!("{}\t\tplain", test.stream));
    // One that is scheduled is an event when it is due.
    let soon = std::time::SystemTime::now() + Duration::from_millis(100);
    let driver = test.driver();
    driver
        .writer()
        .write_at(&[test.message("later")], soon)
        .await
        .unwrap();
    assert_eq!(sink.payload().await, "later");
    sink.close().await;
    assert_eq!(pending_of(&test, &group(&test)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_both_share_a_group_and_each_event_comes_once_in_all() {
    const COUNT: usize = 200;
    let test = test().await;
    let driver = test.builder().lease(LONG).build().unwrap();
    let mut ours = driver.reader().subscribe(&in_group(&test)).await.unwrap();
    let mut sink = Sink::start(&test, LONG, "ack").await;
    let writer = test.driver().writer();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let all = test.messages(COUNT);
    let mut batches = all.chunks(10);
    while here.len() + there.len() < COUNT {
        if let Some(batch) = batches.next() {
            writer.write(batch).await.unwrap();
        }
        let mut out = Vec::new();
        tokio::select! {
            received = ours.receive(std::num::NonZeroUsize::MIN, &mut out) => {
                received.unwrap();
                here.extend(out.iter().map(|delivery| text(&delivery.message)));
                let report = settle(&mut *ours, out, SettleAction::Ack).await;
                assert!(report.lost.is_empty(), "it was still ours");
            }
            payload = sink.payload() => there.push(payload),
        }
    }
    assert!(
        !here.is_empty() && !there.is_empty(),
        "{} and {}",
        here.len(),
        there.len()
    );
    let events: HashSet<_> = here.iter().chain(&there).cloned().collect();
    assert_eq!(events, numbers(0..COUNT).into_iter().collect());
    nothing_comes(&mut *ours).await;
    sink.close().await;
    assert_eq!(pending_of(&test, &group(&test)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_member_of_go_had_comes_here() {
    let test = test().await;
    let mut sink = Sink::start(&test, LEASE, "hold").await;
    test.write(&test.messages(3)).await;
    for number in numbers(0..3) {
        assert_eq!(sink.payload().await, number);
    }
    sink.kill().await;
    let mut ours = member(&test).await;
    let claimed = take(&mut *ours, 3).await;
    assert!(claimed.iter().all(|delivery| delivery.attempt == Some(2)));
    settle(&mut *ours, claimed, SettleAction::Ack).await;
    assert_eq!(pending_of(&test, &group(&test)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_member_of_ours_had_comes_to_go() {
    let test = test().await;
    test.write(&test.messages(3)).await;
    let mut ours = Other::start(&test, &group(&test), LEASE).await;
    assert_eq!(ours.ask("take 3").await, "0 1 2");
    ours.kill().await;
    let mut sink = Sink::start(&test, LEASE, "ack").await;
    let mut claimed = HashSet::new();
    while claimed.len() < 3 {
        claimed.insert(sink.payload().await);
    }
    sink.close().await;
    assert_eq!(pending_of(&test, &group(&test)).await, 0);
}

/// A sink of pulse's deletes consumers that are not in its table, and all they have pending with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_go_leaves_alone_what_ours_have_and_wait_for() {
    let test = test().await;
    test.write(&test.messages(4)).await;
    let driver = test.builder().lease(LONG).build().unwrap();
    let join = async || driver.reader().subscribe(&in_group(&test)).await.unwrap();
    let mut first = join().await;
    let mut held = take(&mut *first, 4).await;
    let retried = held.split_off(2);
    let after = Some(Duration::from_secs(2));
    settle(&mut *first, retried, SettleAction::Retry { after }).await;
    // It looks at the consumers when it starts, and then every 0.5 s.
    let sink = Sink::start(&test, LONG, "hold").await;
    let mut joined = join().await;
    let again = take(&mut *joined, 2).await;
    nothing_comes(&mut *joined).await;
    for (reader, deliveries) in [(&mut first, held), (&mut joined, again)] {
        let report = settle(&mut **reader, deliveries, SettleAction::Ack).await;
        assert!(report.lost.is_empty(), "they were still ours");
    }
    sink.close().await;
    assert_eq!(pending_of(&test, &group(&test)).await, 0);
    // Who has left is in the table no more.
    first.close().await.unwrap();
    joined.close().await.unwrap();
    let mut table = Cmd::new();
    table
        .arg("HKEYS")
        .arg(format!("map:sink:{}:keepalive:content", group(&test)));
    let consumers: Vec<String> = test.ask(&table).await;
    let ours: Vec<_> = consumers
        .iter()
        .filter(|name| name.starts_with("streams-"))
        .collect();
    assert_eq!(ours, ["streams-parked"]);
}
