//! Allocations, bytes, instructions and wake-ups: counts that do not depend on the machine's speed.

use std::alloc::System;
use std::future::pending;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use streams_bench::bus::{self, Subscribed};
use streams_bench::flood::Flood;
use streams_bench::report::{Report, Target};
use streams_bench::{BATCH, SIZE, Source};
use streams_chanbuf::Chanbuf;
use streams_core::{Acknowledgement, Bus, Context, Message};
use tokio::runtime::Builder;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Messages that go before those that are counted, so that buffers have their size.
const WARM_UP: usize = 20_000;

/// Messages that are counted.
const MESSAGES: usize = 100_000;

/// Instructions per message under callgrind: what was measured (2,900 and 1,160), and a quarter more
/// for library routines chosen by processor and for timers that fire at other moments. Lower them
/// when the code gets faster. To make a message takes 1,280 of the first.
const INSTRUCTIONS: [(&str, &str, f64); 2] = [
    ("counts/instructions, publish to settled", "bus", 3600.0),
    ("counts/instructions, dispatch", "dispatch", 1450.0),
];

fn main() -> ExitCode {
    Report::run(|report| {
        publishing(report);
        dispatching(report);
        holding(report);
        idling(report);
        if let Err(error) = instructions(report) {
            report.fail(&error);
        }
    })
}

/// Allocations from publishing to settled. The message itself is one.
fn publishing(report: &mut Report) {
    let cases = [
        ("counts/allocations, batches of 64", BATCH, 1.1),
        ("counts/allocations, single publishes", 1, 2.0),
    ];
    for (name, batch, most) in cases {
        if !report.wants(name) {
            continue;
        }
        let allocations = single_threaded(async {
            let mut source = Source::new(0);
            let driver = Chanbuf::new();
            let bus = bus::start(driver.clone(), &source, Subscribed::default()).await;
            let mut publish = async |messages| {
                bus::publish(bus.publisher(), messages, batch, &mut source).await;
                bus::idle(&bus, &driver).await;
            };
            publish(WARM_UP).await;
            count_allocations(publish(MESSAGES)).await
        });
        let value = allocations as f64 / MESSAGES as f64;
        report.figure(
            name,
            value,
            Target::AtMost(most),
            "per message, its own included",
        );
    }
}

/// Allocations from received to settled, of messages that are there already.
fn dispatching(report: &mut Report) {
    let cases = [
        ("counts/allocations, dispatch", Acknowledgement::Individual),
        (
            "counts/allocations, dispatch by position",
            Acknowledgement::Cumulative,
        ),
    ];
    for (name, acknowledgement) in cases {
        if !report.wants(name) {
            continue;
        }
        let allocations = single_threaded(async {
            let mut source = Source::new(64);
            let messages = (0..64).map(|_| source.message()).collect();
            let driver = Flood::new(acknowledgement, messages);
            let _bus = bus::start(driver.clone(), &source, Subscribed::default()).await;
            driver.run(WARM_UP).await;
            count_allocations(driver.run(MESSAGES)).await
        });
        let value = allocations as f64 / MESSAGES as f64;
        report.figure(name, value, Target::AtMost(0.1), "per message");
    }
}

/// Bytes that a message in flight takes, beyond those it carries.
fn holding(report: &mut Report) {
    const HELD: usize = 10_000;
    let name = "counts/bytes beyond a message's own, in flight";
    if !report.wants(name) {
        return;
    }
    let (bytes, size) = single_threaded(async {
        let driver = Chanbuf::builder()
            .capacity(2 * HELD)
            .build()
            .expect("valid settings");
        let bus = Bus::new(driver);
        let source = Source::new(0);
        bus.subscribe_stream(source.stream(), |_: Message, _: Context| pending::<()>())
            .group("group")
            .max_in_flight(2 * HELD)
            .register()
            .expect("a valid subscription");
        bus.start().await.expect("the bus starts");
        let region = Region::new(ALLOCATOR);
        let mut size = 0;
        for _ in 0..HELD {
            // Data of its own, as a message from a network has.
            let data = Bytes::from(vec![b'x'; SIZE]);
            let message = Message::builder(source.stream())
                .data(data)
                .build()
                .expect("valid");
            size = message.size();
            bus.publisher().write(&[message]).await.expect("written");
        }
        bus.wait_until(|activity| activity.in_flight == HELD).await;
        let change = region.change();
        let bytes = change.bytes_allocated as isize - change.bytes_deallocated as isize;
        bus.shutdown(Duration::ZERO).await;
        (bytes, size)
    });
    let value = bytes as f64 / HELD as f64 - size as f64;
    let note = format!("per message of {size} bytes, {HELD} in flight");
    report.figure(name, value, Target::AtMost(300.0), &note);
}

/// How often threads wake up in a second in which there is nothing to do.
fn idling(report: &mut Report) {
    let name = "counts/wake-ups without work";
    if !report.wants(name) {
        return;
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let bus = runtime.block_on(async {
        let mut source = Source::new(64);
        let how = Subscribed {
            groups: 3,
            ..Subscribed::default()
        };
        let driver = Chanbuf::new();
        let bus = bus::start(driver.clone(), &source, how).await;
        bus::publish(bus.publisher(), 10_000, BATCH, &mut source).await;
        bus::idle(&bus, &driver).await;
        bus
    });
    // What was set off by the last of the work, such as a timer for settling, has its time to end.
    std::thread::sleep(Duration::from_millis(200));
    let before = switches();
    std::thread::sleep(Duration::from_secs(1));
    let value = switches().saturating_sub(before);
    runtime.block_on(bus.shutdown(Duration::from_secs(1)));
    report.figure(
        name,
        value as f64,
        Target::AtMost(2.0),
        "in a second, over all threads",
    );
}

/// How often the threads of this process beside the main one have gone to sleep so far.
fn switches() -> u64 {
    let own = std::process::id().to_string();
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    threads
        .filter_map(Result::ok)
        .filter(|thread| thread.file_name().to_string_lossy() != own)
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

fn instructions(report: &mut Report) -> Result<(), String> {
    for (name, workload, most) in INSTRUCTIONS {
        if !report.wants(name) {
            continue;
        }
        if Command::new("valgrind").arg("--version").output().is_err() {
            if std::env::var_os("CI").is_some() {
                return Err("valgrind is missing; install it to count instructions".to_owned());
            }
            println!("{name}: skipped, valgrind is not installed");
            continue;
        }
        // The difference of two runs is free of what starting up takes.
        let (few, many) = (10_000, 30_000);
        let count = |messages| callgrind(workload, messages);
        let value = (count(many)? - count(few)?) / (many - few) as f64;
        report.figure(
            name,
            value,
            Target::AtMost(most),
            "per message, by callgrind",
        );
    }
    Ok(())
}

fn callgrind(workload: &str, messages: usize) -> Result<f64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = this.parent().unwrap_or(Path::new(".")).join("instructions");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(&program)
        .args([workload, &messages.to_string()])
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    match collected {
        Some(collected) if output.status.success() => Ok(collected),
        _ => Err(format!(
            "callgrind on {} failed ({}); build all of streams-bench first:\n{text}",
            program.display(),
            output.status
        )),
    }
}

async fn count_allocations(work: impl Future<Output = ()>) -> usize {
    let region = Region::new(ALLOCATOR);
    work.await;
    let change = region.change();
    change.allocations + change.reallocations
}

fn single_threaded<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(work)
}
