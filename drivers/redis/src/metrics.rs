//! Metrics, through the `metrics` facade.

use metrics::counter;
use streams_core::StreamName;

/// Entries that a group has not handled and never will, for they are gone. The label `reason` says
/// why: `trimmed` before they were read or settled, or lost by the `server` with its data.
pub const LOST: &str = "streams_redis_lost_total";

/// Counts what a group has lost, and says so.
pub(crate) fn lost(stream: &StreamName, group: &str, reason: &'static str, count: u64) {
    if count == 0 {
        return;
    }
    tracing::warn!(%stream, group, reason, lost = count, "entries are gone that were not handled");
    let labels = [
        ("stream", stream.to_string()),
        ("group", group.to_owned()),
        ("reason", reason.to_owned()),
    ];
    counter!(LOST, &labels).increment(count);
}
