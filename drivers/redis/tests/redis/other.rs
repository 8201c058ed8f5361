//! Another process that reads: to be stopped, killed, or with a clock that is wrong.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use streams_core::{
    Claim, ClaimId, DeduplicationStorage as _, Delivery, Driver as _, MessageId, SettleAction,
    Subscription, unix_millis,
};
use streams_redis::{Redis, RedisDeduplication};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::{PATIENCE, Test, nothing_comes, settle, take, text, until};

/// Tells the process what to read: URL, stream, group, lease in ms.
const ORDERS: &str = "STREAMS_REDIS_OTHER";
/// What its answers begin with: the test harness prints too.
const MARK: &str = "other:";

/// A process with one member of a group.
pub(crate) struct Other {
    process: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub(crate) async fn start(test: &Test, group: &str, lease: Duration) -> Self {
        let program = std::process::Command::new(std::env::current_exe().unwrap());
        Self::run(program, test, group, lease).await
    }

    /// One whose clock is so many seconds wrong.
    pub(crate) async fn with_wrong_clock(
        test: &Test,
        group: &str,
        lease: Duration,
        seconds: i64,
    ) -> Self {
        let program = std::env::current_exe().unwrap();
        let wrong = move || streams_services::with_wrong_clock(&program, seconds).unwrap();
        let program = tokio::task::spawn_blocking(wrong).await.unwrap();
        Self::run(program, test, group, lease).await
    }

    async fn run(
        mut program: std::process::Command,
        test: &Test,
        group: &str,
        lease: Duration,
    ) -> Self {
        let lease = lease.as_millis();
        program
            .args(["other::process", "--exact", "--nocapture"])
            .env(
                ORDERS,
                format!("{} {} {group} {lease}", test.url, test.stream),
            );
        let mut command = Command::from(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let mut this = Self {
            input: process.stdin.take().unwrap(),
            lines: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
        };
        assert_eq!(this.ask("hello").await, "hello");
        this
    }

    /// Has it do something: see [`Member::obey`].
    pub(crate) async fn ask(&mut self, command: &str) -> String {
        self.tell(command).await;
        self.answer().await
    }

    pub(crate) async fn tell(&mut self, command: &str) {
        let line = format!("{command}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> String {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.expect("no answer").unwrap().expect("it has ended");
            // The name of the test may stand before it.
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.to_owned();
            }
        }
    }

    /// SIGSTOP: it neither works nor notices that time passes.
    pub(crate) async fn stop(&self) {
        self.signal("STOP").await;
        // A thread goes on until it is its turn to be told.
        until("all threads have stopped", async || {
            let threads = format!("/proc/{}/task", self.process.id().unwrap());
            let mut threads = std::fs::read_dir(threads).unwrap();
            threads.all(|thread| {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
                // `4711 (name) T ..`
                stat.is_ok_and(|stat| {
                    stat.rsplit_once(") ")
                        .is_some_and(|(_, s)| s.starts_with('T'))
                })
            })
        })
        .await;
    }

    /// SIGCONT.
    pub(crate) async fn go_on(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id().unwrap());
        let status = Command::new("sh").args(["-c", &kill]).status().await;
        assert!(status.unwrap().success());
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// What the process has.
struct Member {
    reader: Box<dyn Subscription>,
    held: Vec<Delivery>,
    storage: RedisDeduplication,
    claims: HashMap<String, ClaimId>,
}

impl Member {
    async fn obey(&mut self, words: &[&str]) -> String {
        let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
        match *words {
            ["hello"] => "hello".to_owned(),
            ["clock"] => unix_millis(SystemTime::now()).to_string(),
            ["take", count] => {
                let taken = take(&mut *self.reader, count.parse().unwrap()).await;
                let data: Vec<_> = taken.iter().map(|one| text(&one.message)).collect();
                self.held.extend(taken);
                data.join(" ")
            }
            ["quiet"] => {
                nothing_comes(&mut *self.reader).await;
                "quiet".to_owned()
            }
            ["extend", by] => {
                let held: Vec<_> = self.held.iter().map(|one| one.token.id()).collect();
                let report = self.reader.extend(&held, millis(by)).await.unwrap();
                report.lost.len().to_string()
            }
            ["acknowledge"] => self.settle(SettleAction::Ack).await,
            ["retry", after] => {
                let after = Some(millis(after));
                self.settle(SettleAction::Retry { after }).await
            }
            ["claim", id, expiry] => {
                let message = MessageId::new(id).unwrap();
                match self.storage.claim("a", &message, millis(expiry)).await {
                    Ok(Claim::Acquired(claim)) => {
                        self.claims.insert(id.to_owned(), claim);
                        "acquired".to_owned()
                    }
                    other => format!("{other:?}"),
                }
            }
            ["commit", id, retention] => {
                let (message, claim) = (MessageId::new(id).unwrap(), self.claims[id]);
                let kept = self.storage.commit("a", &message, claim, millis(retention));
                kept.await.unwrap().to_string()
            }
            _ => panic!("not understood: {words:?}"),
        }
    }

    /// Settles all it has; answers how many were lost.
    async fn settle(&mut self, action: SettleAction) -> String {
        let held = std::mem::take(&mut self.held);
        let report = settle(&mut *self.reader, held, action).await;
        report.lost.len().to_string()
    }
}

/// Does nothing unless a test has started it.
#[allow(
    clippy::exit,
    reason = "nobody listens to what the harness would still say"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: Vec<_> = orders.split(' ').collect();
    let [url, stream, group, lease] = orders[..] else {
        panic!("{ORDERS} is set by the tests alone");
    };
    let test = Test {
        url: url.to_owned(),
        stream: stream.to_owned(),
    };
    let lease = Duration::from_millis(lease.parse().unwrap());
    let driver = Redis::builder(url).lease(lease).build().unwrap();
    let options = test.options().group(group).unwrap();
    let mut member = Member {
        reader: driver.reader().subscribe(&options).await.unwrap(),
        held: Vec::new(),
        storage: RedisDeduplication::new(&driver),
        claims: HashMap::new(),
    };
    let next = || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).unwrap();
        (read > 0).then_some(line)
    };
    while let Some(line) = tokio::task::spawn_blocking(next).await.unwrap() {
        let words: Vec<_> = line.split_whitespace().collect();
        let answer = member.obey(&words).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{MARK}{answer}").unwrap();
        out.flush().unwrap();
    }
    std::process::exit(0);
}
