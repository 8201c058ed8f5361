//! Storage for deduplication: who has claimed and who has handled which message.

use std::time::Duration;

use async_trait::async_trait;

use crate::{MessageId, Result};

/// Remembers which group has handled which message.
///
/// A worker **claims** a message before it handles it, **commits** the claim when it has, and
/// **releases** it when it failed. A claim of a worker that died expires. Checking first and
/// recording afterwards, without a claim, lets two workers handle one message; recording before
/// handling loses messages.
#[async_trait]
pub trait DeduplicationStorage: Send + Sync {
    /// Claims a message for a group, atomically. The claim expires after `expiry` unless committed.
    ///
    /// # Errors
    /// When the storage cannot be reached. The message is then not handled, and tried again.
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim>;

    /// Records that the message has been handled, to be remembered for `retention`. `false` says
    /// that the claim had expired and is somebody else's, or was released: two may have handled it.
    ///
    /// # Errors
    /// When the storage cannot be reached.
    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool>;

    /// Gives the claim up, so that the message can be handled again. One that is no longer ours is
    /// left alone.
    ///
    /// # Errors
    /// When the storage cannot be reached; the claim then expires by itself.
    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()>;
}

/// The answer to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// It is ours: handle the message, then commit or release.
    Acquired(ClaimId),
    /// Another worker is at it: come back later.
    InProgress,
    /// It has been handled: acknowledge it and do nothing.
    Done,
}

/// Names one claim, so that a worker whose claim has expired cannot end another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimId(pub u128);
