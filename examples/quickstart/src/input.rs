//! Feeds a file of JSON lines through the bus, in bounded memory.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use streams_chanbuf::{Backlog, Chanbuf, Full};
use streams_core::{Bus, Context, Event};
use tokio::runtime::Runtime;

/// Longer lines are rejected, so that one line cannot fill the memory.
const LONGEST_LINE: usize = 256 << 10;
/// Events published at once, at most.
const BATCH: usize = 256;
/// Messages that may wait for the slower of the groups. After that, publishing waits.
const CAPACITY: usize = 1024;
/// Rejected lines that the closing report names. Each was also reported when it was met.
const NAMED: usize = 10;

/// One line: any JSON, kept as it was written.
#[derive(Serialize, Deserialize, Event)]
#[event(stream = "input.line")]
struct Line(Box<RawValue>);

#[derive(Clone)]
struct Counts {
    started: Instant,
    published: Arc<AtomicU64>,
    mailer: Arc<AtomicU64>,
    audit: Arc<AtomicU64>,
}

/// Lines that could not be published.
#[derive(Default)]
struct Rejected {
    count: u64,
    first: Vec<String>,
}

/// Publishes every line of `file`, waits until both groups have handled them, and reports.
pub(crate) fn run(runtime: &Runtime, file: &OsStr) -> Result<ExitCode, Box<dyn Error>> {
    let input: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin())
    } else {
        let open = File::open(file);
        Box::new(open.map_err(|error| format!("cannot open {}: {error}", file.display()))?)
    };
    let counts = Counts {
        started: Instant::now(),
        published: Arc::default(),
        mailer: Arc::default(),
        audit: Arc::default(),
    };
    let driver = Chanbuf::builder()
        .capacity(CAPACITY)
        .full(Full::Wait)
        .build()?;
    let bus = Bus::builder(driver.clone()).event::<Line>().build()?;
    count_in_group(&bus, "mailer", &counts.mailer)?;
    count_in_group(&bus, "audit", &counts.audit)?;
    runtime.block_on(bus.start())?;

    // Reading blocks, so this thread does it, outside of the runtime, whose threads run the handlers.
    let progress = runtime.spawn(show_progress(counts.clone()));
    let read = publish_lines(input, &counts, |lines| {
        runtime.block_on(bus.publish_all(lines))
    });
    let report = runtime.block_on(async {
        bus.wait_until(|_| driver.backlog() == Backlog::default())
            .await;
        progress.abort();
        bus.shutdown(Duration::from_secs(10)).await
    });
    eprintln!("{}{counts}", clear_line());
    let rejected = read.map_err(|error| format!("cannot read {}: {error}", file.display()))?;

    println!("published          {}", counts.published.load(Relaxed));
    for one in &report.subscriptions {
        println!(
            "handled by {:<8}{}",
            one.group.as_deref().unwrap_or_default(),
            one.acknowledged
        );
    }
    println!("rejected           {rejected}");
    println!("time               {}", counts.time());
    Ok(ExitCode::from(u8::from(rejected.count > 0)))
}

fn count_in_group(
    bus: &Bus<Chanbuf>,
    group: &str,
    handled: &Arc<AtomicU64>,
) -> streams_core::Result<()> {
    let handled = handled.clone();
    bus.subscribe_event(move |_: Line, _: Context| {
        handled.fetch_add(1, Relaxed);
        async {}
    })
    .group(group)
    .register()
}

/// Reads lines and publishes them in batches: what is there at once, at most [`BATCH`].
fn publish_lines(
    input: impl Read,
    counts: &Counts,
    mut publish: impl FnMut(&[Line]) -> streams_core::Result<()>,
) -> Result<Rejected, Box<dyn Error>> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut rejected = Rejected::default();
    let mut batch = Vec::with_capacity(BATCH);
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        let end = input
            .by_ref()
            .take(LONGEST_LINE as u64 + 1)
            .read_until(b'\n', &mut text)?
            == 0;
        match parse(&text) {
            _ if end => {}
            Ok(line) => batch.push(line),
            Err(reason) => rejected.add(number, &reason),
        }
        if text.len() > LONGEST_LINE && !text.ends_with(b"\n") {
            input.skip_until(b'\n')?;
        }
        if end || batch.len() == BATCH || input.buffer().is_empty() {
            // Counted first, so that the handlers' counts never run ahead of it.
            counts.published.fetch_add(batch.len() as u64, Relaxed);
            publish(&batch)?;
            batch.clear();
        }
        if end {
            break;
        }
    }
    Ok(rejected)
}

fn parse(text: &[u8]) -> Result<Line, String> {
    let text = text.trim_ascii();
    if text.len() > LONGEST_LINE {
        return Err(format!("longer than {} KiB", LONGEST_LINE >> 10));
    }
    if text.is_empty() {
        return Err("empty".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| {
        // Its line is always 1 here, which would mislead.
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {reason} at column {}", error.column())
    })
}

impl Rejected {
    fn add(&mut self, number: u64, reason: &str) {
        eprintln!("{}line {number}: {reason}", clear_line());
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(number.to_string());
        }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.count)?;
        let more = if self.count > NAMED as u64 {
            ", ..."
        } else {
            ""
        };
        match self.count {
            0 => Ok(()),
            1 => write!(f, " (line {})", self.first[0]),
            _ => write!(f, " (lines {}{more})", self.first.join(", ")),
        }
    }
}

/// Shows the counts while they change: in place on a terminal, else a line now and then.
async fn show_progress(counts: Counts) {
    let (pause, end) = match io::stderr().is_terminal() {
        true => (Duration::from_millis(250), ""),
        false => (Duration::from_secs(1), "\n"),
    };
    let mut last = String::new();
    loop {
        tokio::time::sleep(pause).await;
        let now = counts.to_string();
        if now != last {
            eprint!("{}{now}{end}", clear_line());
            last = now;
        }
    }
}

/// Makes room for a line of its own where the progress stands.
fn clear_line() -> &'static str {
    if io::stderr().is_terminal() {
        "\r\x1b[K"
    } else {
        ""
    }
}

impl Counts {
    fn time(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.published.load(Relaxed) as f64 / seconds;
        format!("{seconds:.2} s, {rate:.0} lines/s")
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [published, mailer, audit] =
            [&self.published, &self.mailer, &self.audit].map(|count| count.load(Relaxed));
        write!(
            f,
            "progress: {published} published, {mailer} handled by mailer, {audit} by audit"
        )
    }
}
