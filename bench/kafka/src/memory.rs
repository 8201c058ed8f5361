//! Memory of a reader that is slower than the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streams_core::{Bus, StartFrom, ksuid};

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

pub(crate) fn measure(setup: &Setup) -> Memory {
    let topic = filled(setup, PARTITIONS, BACKLOG);
    let before = resident();
    let (most, handled) = setup.runtime.block_on(async {
        let bus = Bus::new(setup.kafka.clone());
        let handled = Arc::new(AtomicUsize::new(0));
        let counted = handled.clone();
        bus.subscribe_stream(&topic, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5))
        })
        .group(ksuid().expect("an id").as_str())
        .start_from(StartFrom::Earliest)
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
    setup.delete(&topic);
    // What is in flight (1,024 messages by default, far below its 64 MiB) is small; what the client
    // holds of each partition is not. As much again for what the client and the allocator hold
    // beside the messages.
    let prefetched = f64::from(PARTITIONS) * 8.0;
    Memory {
        mebibytes: (most - before).max(0.0),
        bound: 2.0 * prefetched,
        note: format!(
            "added while {handled} of {BACKLOG} messages of 256 bytes were handled; {PARTITIONS} \
             partitions of 8 MiB prefetched each"
        ),
    }
}

/// Resident memory of this process in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kibibytes.unwrap_or(f64::NAN) / 1024.0
}
