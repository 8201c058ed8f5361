//! Processes that read, for the kit to kill.

use std::process::Stdio;
use std::time::Duration;

use streams_core::{
    Bus, Context, Driver, Error, ErrorKind, HandlerError, MessageId, ReadOptions, Result,
    StartFrom, StreamName,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::Harness;
use crate::cases::copy_of;
use crate::failure::{Checked, Failure, fail};

const ORDERS: &str = "STREAMS_KIT_READER";
const MARK: &str = "streams-kit:";

/// How to start a process that opens the driver and reads as the kit says, until the kit kills it.
///
/// The usual way is to have the test start itself once more:
///
/// ```no_run
/// # use streams_core::{AnyDriver, DriverRegistry, Result, async_trait};
/// use streams_testkit::{Harness, ReaderProcess, this_test};
///
/// # struct MyHarness;
/// #[async_trait]
/// impl Harness for MyHarness {
/// #   async fn open(&self) -> Result<AnyDriver> { DriverRegistry::new().open("mine:").await }
///     fn reader_process(&self) -> Option<ReaderProcess> {
///         Some(this_test("reader_process"))
///     }
/// }
///
/// /// Does nothing unless the kit has started it.
/// # /*
/// #[test]
/// # */
/// fn reader_process() {
///     ReaderProcess::serve(&MyHarness);
/// }
/// ```
#[derive(Debug)]
pub struct ReaderProcess(Command);

/// Starts the running test binary once more, for the test of this name alone (a path such as
/// `conformance::reader_process` if it is in a module), which calls [`ReaderProcess::serve`].
///
/// # Panics
/// If the system does not know where the running program is.
#[must_use]
pub fn this_test(name: &str) -> ReaderProcess {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => panic!("cannot find the running test to start it again: {error}"),
    };
    let mut command = std::process::Command::new(program);
    command.args([
        name,
        "--exact",
        "--nocapture",
        "--include-ignored",
        "--test-threads=1",
    ]);
    ReaderProcess::new(command)
}

impl ReaderProcess {
    /// A command whose process calls [`ReaderProcess::serve`]. Give it what it needs to open the
    /// same driver, such as a directory, in arguments or the environment.
    #[must_use]
    pub fn new(command: std::process::Command) -> Self {
        Self(command.into())
    }

    /// Sets an environment variable of the process.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// The process's side: reads as the kit says, and never returns. Returns at once if the kit has
    /// not started this process.
    ///
    /// # Panics
    /// If the driver fails; the case then fails too.
    pub fn serve(harness: &dyn Harness) {
        let Ok(orders) = std::env::var(ORDERS) else {
            return;
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let served = match runtime {
            Ok(runtime) => runtime.block_on(serve(harness, &orders)),
            Err(error) => panic!("cannot start the reader's runtime: {error}"),
        };
        if let Err(error) = served {
            panic!("the reader failed: {error:?}");
        }
    }

    /// The kit's side: starts the process.
    pub(crate) fn start(mut self, orders: &Orders) -> Checked<Killable> {
        self.0
            .env(ORDERS, orders.to_text())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = match self.0.spawn() {
            Ok(child) => child,
            Err(error) => fail!("cannot start the reading process: {error}"),
        };
        let Some(stdout) = child.stdout.take() else {
            fail!("the reading process has no output to read");
        };
        Ok(Killable {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }
}

/// What a reading process is to read, and to do with it.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) stream: String,
    pub(crate) group: String,
    pub(crate) earliest: bool,
    pub(crate) work: Work,
}

/// What a reading process does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Acknowledges some, puts some off, holds the rest.
    Settle {
        acknowledge: usize,
        retry: usize,
        retry_after: Duration,
    },
    /// Copies to another stream, exactly once.
    Copy {
        to: String,
        commit_interval: Duration,
    },
}

impl Orders {
    fn to_text(&self) -> String {
        let Self {
            stream,
            group,
            earliest,
            work,
        } = self;
        let work = match work {
            Work::Settle {
                acknowledge,
                retry,
                retry_after,
            } => format!("settle {acknowledge} {retry} {}", retry_after.as_millis()),
            Work::Copy {
                to,
                commit_interval,
            } => format!("copy {to} {}", commit_interval.as_millis()),
        };
        format!("{stream} {group} {earliest} {work}")
    }

    fn from_text(text: &str) -> Result<Self> {
        let parse = || {
            let parts: Vec<_> = text.split(' ').collect();
            let (head, work) = parts.split_at_checked(3)?;
            let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
            Some(Self {
                stream: head[0].to_owned(),
                group: head[1].to_owned(),
                earliest: head[2].parse().ok()?,
                work: match work {
                    ["settle", acknowledge, retry, retry_after] => Work::Settle {
                        acknowledge: acknowledge.parse().ok()?,
                        retry: retry.parse().ok()?,
                        retry_after: millis(retry_after)?,
                    },
                    ["copy", to, commit_interval] => Work::Copy {
                        to: (*to).to_owned(),
                        commit_interval: millis(commit_interval)?,
                    },
                    _ => return None,
                },
            })
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("`{ORDERS}` is set by the kit alone"),
            )
        })
    }

    fn start(&self) -> StartFrom {
        match self.earliest {
            true => StartFrom::Earliest,
            false => StartFrom::Default,
        }
    }
}

async fn serve(harness: &dyn Harness, orders: &str) -> Result<()> {
    let orders = Orders::from_text(orders)?;
    match &orders.work {
        Work::Settle {
            acknowledge,
            retry,
            retry_after,
        } => settle(harness, &orders, (*acknowledge, *retry), *retry_after).await,
        Work::Copy {
            to,
            commit_interval,
        } => copy(harness, &orders, to, *commit_interval).await,
    }
}

fn say(word: &str, id: &MessageId) {
    println!("{MARK} {word} {id}");
}

async fn settle(
    harness: &dyn Harness,
    orders: &Orders,
    (acknowledge, retry): (usize, usize),
    retry_after: Duration,
) -> Result<()> {
    let driver = harness.open().await?;
    let mut options = ReadOptions::new(&orders.stream)?.start_from(orders.start());
    if !orders.group.is_empty() {
        options = options.group(&orders.group)?;
    }
    let mut subscription = driver.reader().subscribe(&options).await?;
    let mut held = Vec::new();
    let mut seen = 0;
    loop {
        let mut out = Vec::new();
        subscription
            .receive(std::num::NonZeroUsize::MIN, &mut out)
            .await?;
        for delivery in out {
            seen += 1;
            let id = delivery.message.id().clone();
            let (word, settlement) = if seen <= acknowledge {
                ("acknowledged", Some(delivery.ack()))
            } else if seen <= acknowledge + retry {
                ("retried", Some(delivery.token.retry(Some(retry_after))))
            } else {
                held.push(delivery);
                ("held", None)
            };
            let mut settlements: Vec<_> = settlement.into_iter().collect();
            while !settlements.is_empty() {
                subscription.settle(&mut settlements).await?;
            }
            say(word, &id);
        }
    }
}

async fn copy(
    harness: &dyn Harness,
    orders: &Orders,
    to: &str,
    commit_interval: Duration,
) -> Result<()> {
    let bus = Bus::new(harness.open().await?);
    let to = StreamName::new(to)?;
    bus.subscribe_stream(&orders.stream, move |message, context: Context| {
        let copy = copy_of(&message, &to);
        async move {
            context.publisher().write(&[copy?]).await?;
            say("copied", message.id());
            Ok::<_, HandlerError>(())
        }
    })
    .group(&orders.group)
    .start_from(orders.start())
    .exactly_once()
    .commit_interval(commit_interval)
    .register()?;
    bus.start().await?;
    Err(bus.failed().await)
}

/// A process that reads.
pub(crate) struct Killable {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a reading process said of one message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Acknowledged(MessageId),
    Retried(MessageId),
    Held(MessageId),
    Copied(MessageId),
}

impl Killable {
    /// What it says next.
    pub(crate) async fn next(&mut self) -> Checked<Said> {
        loop {
            let line = match self.lines.next_line().await {
                Ok(Some(line)) => line,
                Ok(None) => fail!("the reading process ended by itself; see its output above"),
                Err(error) => fail!("cannot read the reading process's output: {error}"),
            };
            // A test's name may stand before it on the line.
            let Some((_, said)) = line.split_once(MARK) else {
                continue;
            };
            let mut words = said.split_whitespace();
            let (Some(word), Some(id)) = (words.next(), words.next()) else {
                fail!("the reading process said `{line}`, which means nothing");
            };
            let id = MessageId::new(id)?;
            return match word {
                "acknowledged" => Ok(Said::Acknowledged(id)),
                "retried" => Ok(Said::Retried(id)),
                "held" => Ok(Said::Held(id)),
                "copied" => Ok(Said::Copied(id)),
                _ => Err(Failure::new(format!(
                    "the reading process said `{line}`, which means nothing"
                ))),
            };
        }
    }

    /// Kills it, as a crash would: SIGKILL.
    pub(crate) async fn kill(mut self) -> Checked {
        match self.child.kill().await {
            Ok(()) => Ok(()),
            Err(error) => fail!("cannot kill the reading process: {error}"),
        }
    }
}
