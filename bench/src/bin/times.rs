//! Ratios of times: this workspace against a bare channel, and against itself with more to do.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use streams_bench::bus::{self, Subscribed};
use streams_bench::pairs::compare;
use streams_bench::report::{Report, Target};
use streams_bench::{BATCH, Source, bare};
use streams_chanbuf::Chanbuf;
use streams_core::Ordering;
use tokio::runtime::{Builder, Runtime};

/// How long one side of a pair runs, about.
const SIDE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    Report::run(|report| {
        against_channels(report);
        against_itself(report);
        delayed(report);
    })
}

/// A share of a bare channel's messages per second.
struct Share {
    name: &'static str,
    least: f64,
    batch: usize,
    groups: usize,
    keys: usize,
    concurrency: Option<usize>,
}

fn against_channels(report: &mut Report) {
    let share = |name, least| Share {
        name,
        least,
        batch: BATCH,
        groups: 1,
        keys: 0,
        concurrency: None,
    };
    let shares = [
        share("times/one group, batches of 64", 1.0),
        Share {
            batch: 1,
            ..share("times/one group, single publishes", 0.6)
        },
        Share {
            groups: 3,
            ..share("times/three groups", 0.8)
        },
        Share {
            keys: 64,
            concurrency: Some(4),
            ..share("times/order per key, concurrency 4", 0.5)
        },
    ];
    for share in shares {
        if report.wants(share.name) {
            measure_share(report, &share);
        }
    }
}

fn measure_share(report: &mut Report, share: &Share) {
    let how = Subscribed {
        groups: share.groups,
        concurrency: share.concurrency,
        ..Subscribed::default()
    };
    let channel = |messages| {
        in_runtime(bare::channels(
            share.groups,
            messages,
            Source::new(share.keys),
        ))
    };
    let ours = |messages| {
        in_runtime(bus::run(
            messages,
            share.batch,
            how,
            Source::new(share.keys),
        ))
    };
    let messages = fitting(channel);
    let compared = compare(|| channel(messages), || ours(messages));
    let rate = |took: Duration| messages as f64 / took.as_secs_f64() / 1e6;
    let note = format!(
        "x a bare channel: {:.2} of {:.2} million messages/s",
        rate(compared.b),
        rate(compared.a)
    );
    report.figure(
        share.name,
        compared.ratio,
        Target::AtLeast(share.least),
        &note,
    );
}

fn against_itself(report: &mut Report) {
    let name = "times/three layers";
    if report.wants(name) {
        let plain = Subscribed::default();
        let layered = Subscribed {
            layers: true,
            ..plain
        };
        let note = "x the time without retry, dead letters and logging";
        compare_runs(report, name, 1.15, note, 0, layered, plain);
    }
    let name = "times/10,000 keys, concurrency 64";
    if report.wants(name) {
        let ordered = Subscribed {
            concurrency: Some(64),
            ..Subscribed::default()
        };
        let unordered = Subscribed {
            ordering: Ordering::None,
            ..ordered
        };
        let note = "x the time without order";
        compare_runs(report, name, 1.5, note, 10_000, ordered, unordered);
    }
}

fn compare_runs(
    report: &mut Report,
    name: &str,
    most: f64,
    note: &str,
    keys: usize,
    more: Subscribed,
    less: Subscribed,
) {
    let run = |how| move |messages| in_runtime(bus::run(messages, BATCH, how, Source::new(keys)));
    let (more, less) = (run(more), run(less));
    let messages = fitting(less);
    let compared = compare(|| more(messages), || less(messages));
    let note = format!(
        "{note}: {:.0} and {:.0} ms",
        millis(compared.a),
        millis(compared.b)
    );
    report.figure(name, compared.ratio, Target::AtMost(most), &note);
}

/// Processor time to schedule and deliver many delayed messages, each due at a time of its own.
fn delayed(report: &mut Report) {
    const MESSAGES: usize = 100_000;
    let name = "times/100,000 delayed messages";
    if !report.wants(name) {
        return;
    }
    let before = processor_time();
    let took = in_runtime(async {
        let mut source = Source::new(0);
        let driver = Chanbuf::new();
        let bus = bus::start(driver.clone(), &source, Subscribed::default()).await;
        let writer = bus.publisher().writer().clone();
        let start = Instant::now();
        let soon = SystemTime::now() + Duration::from_millis(500);
        for index in 0..MESSAGES {
            // In no order, over one second.
            let due = soon + Duration::from_micros((index * 7919 % MESSAGES) as u64 * 10);
            writer
                .write_at(&[source.message()], due)
                .await
                .expect("scheduled");
        }
        bus::idle(&bus, &driver).await;
        let report = bus.shutdown(Duration::from_secs(10)).await;
        assert_eq!(report.acknowledged() as usize, MESSAGES, "{report}");
        start.elapsed()
    });
    let used = processor_time() - before;
    let note = format!("s of processor time, {:.1} s in all", took.as_secs_f64());
    report.figure(name, used.as_secs_f64(), Target::AtMost(1.0), &note);
}

/// How many messages take a run of about [`SIDE`].
fn fitting(run: impl Fn(usize) -> Duration) -> usize {
    let few = 100_000;
    run(few);
    let took = run(few).as_secs_f64();
    let messages = few as f64 * SIDE.as_secs_f64() / took;
    (messages as usize).next_multiple_of(BATCH)
}

fn in_runtime<T>(run: impl Future<Output = T>) -> T {
    runtime().block_on(run)
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime")
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
