//! Heartbeats: leases are kept up while their messages are here.

use std::time::Duration;

use tokio::time::Instant;

use super::Fetcher;

impl Fetcher {
    /// Extends the leases of what is in flight; tells handlers whose lease is lost.
    pub(super) async fn keep_leases(&mut self, now: Instant) {
        if self.times.heartbeat.is_none_or(|heartbeat| heartbeat > now) {
            return;
        }
        let ended = {
            let mut pool = self.shared.lock();
            let ended = pool.dispatcher.leases_ended(now);
            let lost = pool.dispatcher.lose(&ended);
            (ended, lost)
        };
        self.shared.cancel(&ended.1);
        if !ended.0.is_empty() {
            tracing::warn!(stream = %self.options.stream, lost = ended.0.len(), "leases ran out");
        }
        let longest = self.shared.settings.longest_lease;
        let (length, ids) = {
            let dispatcher = &self.shared.lock().dispatcher;
            let length = dispatcher.lease_length();
            (length, dispatcher.leases_ending(now + length, now, longest))
        };
        if !ids.is_empty() {
            match self.subscription.extend(&ids, length).await {
                Ok(report) => {
                    let mut pool = self.shared.lock();
                    pool.dispatcher.extended(&ids, now + length);
                    let lost = pool.dispatcher.lose(&report.lost);
                    drop(pool);
                    self.shared.cancel(&lost);
                }
                Err(error) => tracing::warn!(
                    stream = %self.options.stream, error = %error, "leases cannot be extended"
                ),
            }
        }
        self.plan_heartbeat(Instant::now());
        // Leases at their longest are only waited for, without asking again and again.
        let soon = Instant::now() + Duration::from_millis(1);
        self.times.heartbeat = self.times.heartbeat.map(|at| at.max(soon));
    }

    pub(super) fn plan_heartbeat(&mut self, now: Instant) {
        let end = self.shared.lock().dispatcher.first_lease_end();
        // A third of what is left, so that two heartbeats may fail before the lease is lost.
        self.times.heartbeat = end.map(|end| now + end.saturating_duration_since(now) / 3);
    }
}
