//! What becomes of messages that were received: ten in a request, requests at the same time.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry,
    ChangeMessageVisibilityBatchResultEntry, DeleteMessageBatchRequestEntry,
    DeleteMessageBatchResultEntry,
};
use futures_util::future::{join, join_all};
use streams_core::{ErrorKind, ExtendReport, SettleAction, SettleReport, Settlement, TokenId};
use tokio::time::Instant;

use crate::batches::{Done, MOST, done};
use crate::config::LONGEST_VISIBILITY;
use crate::error::Problem;
use crate::names::Place;
use crate::send::failed;
use crate::sqs::Inner;
use crate::writer::{incomplete, whole_seconds};

/// The right to say what becomes of a message that was received.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(crate) handle: String,
    /// When it was received.
    pub(crate) since: Instant,
    /// When it is lost.
    pub(crate) until: Instant,
}

impl Receipt {
    fn is_lost(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// As long as it may be kept invisible from now, in seconds.
    fn visible_after(&self, time: Duration, now: Instant) -> i32 {
        let most = LONGEST_VISIBILITY.saturating_sub(now - self.since);
        whole_seconds(time).min(whole_seconds(most))
    }
}

impl Inner {
    /// Settles, and takes what is settled out of `settlements` and `held`.
    pub(crate) async fn settle(
        &self,
        queue: &Place,
        held: &mut HashMap<u64, Receipt>,
        settlements: &mut Vec<Settlement>,
    ) -> Result<SettleReport, Problem> {
        let now = Instant::now();
        let mut report = SettleReport::default();
        settlements.retain(|settlement| {
            let id = settlement.token.id();
            let is_ours = held.get(&id.sequence).is_some_and(|one| !one.is_lost(now));
            if !is_ours {
                held.remove(&id.sequence);
                report.lost.push(id);
            }
            is_ours
        });
        let (mut deletes, mut changes) = (Vec::new(), Vec::new());
        for settlement in settlements.iter() {
            let number = settlement.token.id().sequence;
            let Some(receipt) = held.get(&number) else {
                continue;
            };
            match settlement.action {
                SettleAction::Ack => deletes.push((number, receipt)),
                SettleAction::Retry { after } => {
                    let seconds = receipt.visible_after(after.unwrap_or_default(), now);
                    changes.push((number, receipt, seconds));
                }
                SettleAction::Release => changes.push((number, receipt, 0)),
            }
        }
        let deleted = deletes.chunks(MOST).map(|chunk| async move {
            let handles = chunk.iter().map(|(_, receipt)| *receipt).collect();
            let done = self.delete_batch(queue, handles).await;
            chunk.iter().map(|one| one.0).zip(done).collect::<Vec<_>>()
        });
        let changed = changes.chunks(MOST).map(|chunk| async move {
            let entries = chunk.iter().map(|one| (one.1, one.2)).collect();
            let done = self.change_batch(queue, entries).await;
            chunk.iter().map(|one| one.0).zip(done).collect::<Vec<_>>()
        });
        let (deleted, changed) = join(join_all(deleted), join_all(changed)).await;
        let done: HashMap<_, _> = deleted.into_iter().chain(changed).flatten().collect();

        let mut refused = None;
        settlements.retain(|settlement| {
            let id = settlement.token.id();
            match done.get(&id.sequence) {
                Some(Err(problem)) if problem.kind != ErrorKind::LeaseLost => {
                    refused.get_or_insert_with(|| problem.clone());
                    return true;
                }
                Some(Err(_)) | None => report.lost.push(id),
                Some(Ok(())) => {}
            }
            held.remove(&id.sequence);
            false
        });
        match refused {
            Some(problem) => {
                if !report.lost.is_empty() {
                    let lost = report.lost.len();
                    tracing::warn!(lost, "settled too late: the messages are delivered again");
                }
                Err(problem)
            }
            None => Ok(report),
        }
    }

    /// Makes leases last until `by` from now.
    pub(crate) async fn extend(
        &self,
        queue: &Place,
        held: &mut HashMap<u64, Receipt>,
        deliveries: &[TokenId],
        by: Duration,
    ) -> Result<ExtendReport, Problem> {
        let now = Instant::now();
        let mut report = ExtendReport::default();
        let mut kept = Vec::with_capacity(deliveries.len());
        for id in deliveries {
            match held.get(&id.sequence) {
                // At least a second: none at all would give it back.
                Some(receipt) if !receipt.is_lost(now) => {
                    kept.push((*id, receipt, receipt.visible_after(by, now).max(1)));
                }
                _ => report.lost.push(*id),
            }
        }
        let extended = kept.chunks(MOST).map(|chunk| async move {
            let entries = chunk.iter().map(|one| (one.1, one.2)).collect();
            let done = self.change_batch(queue, entries).await;
            let ids = chunk.iter().map(|one| (one.0, one.2));
            ids.zip(done).collect::<Vec<_>>()
        });
        let extended: Vec<_> = join_all(extended).await.into_iter().flatten().collect();
        let mut refused = None;
        for ((id, seconds), done) in extended {
            match done {
                Ok(()) => {
                    if let Some(receipt) = held.get_mut(&id.sequence) {
                        // From before the request: SQS counts from when it got it.
                        receipt.until = now + Duration::from_secs(seconds.unsigned_abs().into());
                    }
                }
                Err(problem) if problem.kind == ErrorKind::LeaseLost => report.lost.push(id),
                Err(problem) => refused = Some(problem),
            }
        }
        match refused {
            // Those that are lost are found lost again.
            Some(problem) => Err(problem),
            None => Ok(report),
        }
    }

    /// Lets others have the messages at once. Where that fails, they do when the leases run out.
    pub(crate) async fn give_back(&self, queue: &Place, receipts: Vec<Receipt>) {
        let now = Instant::now();
        let ours: Vec<_> = receipts.iter().filter(|one| !one.is_lost(now)).collect();
        let back = ours.chunks(MOST).map(|chunk| {
            let entries = chunk.iter().map(|receipt| (*receipt, 0)).collect();
            self.change_batch(queue, entries)
        });
        for done in join_all(back).await.into_iter().flatten() {
            if let Err(problem) = done {
                let error = problem.error("release");
                tracing::warn!(%error, "a message cannot be given back; it comes again later");
            }
        }
    }

    /// Deletes messages that were put off. Where that fails, they come twice.
    pub(crate) async fn delete(&self, queue: &Place, receipts: Vec<&Receipt>) {
        if receipts.is_empty() {
            return;
        }
        for done in self.delete_batch(queue, receipts).await {
            if let Err(problem) = done {
                let error = problem.error("delete");
                tracing::warn!(%error, "a message that was put off cannot be deleted");
            }
        }
    }

    async fn delete_batch(&self, queue: &Place, receipts: Vec<&Receipt>) -> Vec<Done> {
        let count = receipts.len();
        let delete = async {
            let mut request = self.client.delete_message_batch().queue_url(&queue.address);
            for (at, receipt) in receipts.into_iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder().id(at.to_string());
                let entry = entry.receipt_handle(&receipt.handle).build();
                request = request.entries(entry.map_err(incomplete)?);
            }
            let sent = request.send().await?;
            let confirmed = sent
                .successful()
                .iter()
                .map(DeleteMessageBatchResultEntry::id);
            Ok(done(count, confirmed, of_receipts(sent.failed())))
        };
        each(count, delete.await)
    }

    /// Makes each message visible after so many seconds.
    async fn change_batch(&self, queue: &Place, entries: Vec<(&Receipt, i32)>) -> Vec<Done> {
        let count = entries.len();
        let change = async {
            let request = self.client.change_message_visibility_batch();
            let mut request = request.queue_url(&queue.address);
            for (at, (receipt, seconds)) in entries.into_iter().enumerate() {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder();
                let entry = entry.id(at.to_string()).visibility_timeout(seconds);
                let entry = entry.receipt_handle(&receipt.handle).build();
                request = request.entries(entry.map_err(incomplete)?);
            }
            let sent = request.send().await?;
            let confirmed = sent
                .successful()
                .iter()
                .map(ChangeMessageVisibilityBatchResultEntry::id);
            Ok(done(count, confirmed, of_receipts(sent.failed())))
        };
        each(count, change.await)
    }
}

/// What came of each entry of a request.
fn each(count: usize, answer: Result<Vec<Done>, Problem>) -> Vec<Done> {
    match answer {
        Ok(done) => done,
        // The messages are gone with their queue; receiving says so.
        Err(problem) if problem.kind == ErrorKind::NotFound => vec![Err(is_lost()); count],
        Err(problem) => vec![Err(problem); count],
    }
}

/// A receipt that SQS refuses, in whatever words, is one that has run out.
fn of_receipts(entries: &[BatchResultErrorEntry]) -> impl Iterator<Item = (&str, Problem)> {
    failed(entries).map(|(id, problem)| match problem.kind {
        ErrorKind::InvalidConfig | ErrorKind::InvalidMessage => (id, is_lost()),
        _ => (id, problem),
    })
}

fn is_lost() -> Problem {
    Problem::new(
        ErrorKind::LeaseLost,
        "the message is no longer this reader's; it comes again",
    )
}
