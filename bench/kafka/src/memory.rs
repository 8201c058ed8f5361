//! Memory of a reader that is slower than the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{Bus, StartFrom, StreamName, ksuid};
use streams_kafka::KafkaOptions;

use crate::consume::filled;
use crate::setup::Setup;

const BACKLOG: usize = 1_000_000;
const PARTITIONS: u32 = 12;

pub(crate) struct Memory {
    /// The most resident memory the reader added.
    pub(crate) mebibytes: f64,
    /// What the settings allow.
    pub(crate) bound: f64,
    pub(crate) note: String,
}

/// With so many MiB prefetched of each partition.
pub(crate) fn measure(setup: &Setup, topic: &StreamName, prefetch: usize) -> Memory {
    let before = resident();
    let (most, handled) = setup.runtime.block_on(async {
        let bus = Bus::new(setup.kafka.clone());
        let handled = Arc::new(AtomicUsize::new(0));
        let counted = handled.clone();
        bus.subscribe_stream(topic, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5))
        })
        .group(ksuid().expect("an id").as_str())
        .start_from(StartFrom::Earliest)
        .option(KafkaOptions::new().prefetch(prefetch << 20))
        .register()
        .expect("a valid subscription");
        bus.start().await.expect("the bus starts");
        let mut most = before;
        while handled.load(Ordering::Relaxed) < 20_000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = most.max(resident());
        }
        bus.shutdown(Duration::from_secs(10)).await;
        (most, handled.load(Ordering::Relaxed))
    });
    // What is in flight, 1,024 messages by default, is small beside what the client holds of each
    // partition: as much data as is set and one fetch of 1 MiB more, and for each message of 256
    // bytes about twice that of its own.
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    let data = f64::from(PARTITIONS) * (prefetch as f64 + 1.0);
    Memory {
        mebibytes: (most - before).max(0.0),
        bound: 3.0 * data,
        note: format!(
            "resident memory added while {handled} of {BACKLOG} messages of 256 bytes were handled, \
             {PARTITIONS} partitions"
        ),
    }
}

/// A topic with the backlog in it.
pub(crate) fn backlog(setup: &Setup) -> StreamName {
    filled(setup, PARTITIONS, BACKLOG)
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| {
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<f64>()
            .ok()
    });
    kibibytes.unwrap_or(f64::NAN) / 1024.0
}
