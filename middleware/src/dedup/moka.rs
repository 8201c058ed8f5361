//! Deduplication storage in this process's memory.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::Expiry;
use moka::ops::compute::{CompResult, Op};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use streams_core::{Claim, ClaimId, DeduplicationStorage, Error, MessageId, Result, async_trait};
use tokio::time::Instant;

/// No entry lasts longer, whatever is asked for: clocks and caches count no further.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Remembers handled messages in memory, for the members of a group that live in one process.
///
/// # Behavior
/// - Clones share the memory.
/// - A claim is atomic: of any number that race, one acquires.
/// - When full, the entries used least recently make room. A claim that is pushed out can be taken
///   by another worker: let the capacity be well above the messages handled within the retention.
/// - Time is tokio's, so tests on virtual time see entries expire.
#[derive(Clone)]
pub struct MokaStorage {
    entries: Cache<Key, Entry>,
    claims: std::sync::Arc<AtomicU64>,
}

type Key = (Box<str>, MessageId);

#[derive(Clone, Copy)]
struct Entry {
    /// Whose claim it is; `None` once handled.
    claim: Option<ClaimId>,
    until: Instant,
    lasts: Duration,
}

impl MokaStorage {
    /// Remembers up to `capacity` messages, over all groups.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for zero.
    pub fn new(capacity: u64) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::invalid_config(
                "the deduplication storage's capacity is 0, so nothing would be remembered; use the \
                 number of messages handled within the retention, or more",
            ));
        }
        let entries = Cache::builder()
            .max_capacity(capacity)
            // The default policy may refuse a new entry in favour of a popular old one.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Lasts)
            .build();
        Ok(Self {
            entries,
            claims: std::sync::Arc::default(),
        })
    }

    /// Changes the entry that is there and not expired, atomically for its key.
    fn change(
        &self,
        group: &str,
        id: &MessageId,
        change: impl FnOnce(Option<Entry>) -> Op<Entry>,
    ) -> bool {
        let result = self
            .entries
            .entry((group.into(), id.clone()))
            .and_compute_with(|entry| {
                let now = Instant::now();
                change(
                    entry
                        .map(moka::Entry::into_value)
                        .filter(|entry| entry.until > now),
                )
            });
        !matches!(result, CompResult::StillNone(_) | CompResult::Unchanged(_))
    }
}

impl Entry {
    fn new(claim: Option<ClaimId>, lasts: Duration) -> Self {
        let lasts = lasts.min(LONGEST);
        Self {
            claim,
            until: Instant::now() + lasts,
            lasts,
        }
    }
}

#[async_trait]
impl DeduplicationStorage for MokaStorage {
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim> {
        let claim = ClaimId(u128::from(self.claims.fetch_add(1, Ordering::Relaxed)));
        let mut answer = Claim::Acquired(claim);
        self.change(group, id, |entry| match entry {
            None => Op::Put(Entry::new(Some(claim), expiry)),
            Some(entry) => {
                answer = if entry.claim.is_some() {
                    Claim::InProgress
                } else {
                    Claim::Done
                };
                Op::Nop
            }
        });
        Ok(answer)
    }

    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool> {
        Ok(self.change(group, id, |entry| match entry {
            Some(entry) if entry.claim == Some(claim) => Op::Put(Entry::new(None, retention)),
            _ => Op::Nop,
        }))
    }

    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()> {
        self.change(group, id, |entry| match entry {
            Some(entry) if entry.claim == Some(claim) => Op::Remove,
            _ => Op::Nop,
        });
        Ok(())
    }
}

impl fmt::Debug for MokaStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaStorage")
            .field("entries", &self.entries.entry_count())
            .field("capacity", &self.entries.policy().max_capacity())
            .finish()
    }
}

/// Lets the cache drop what has expired. Whether something has is decided by [`Entry::until`].
struct Lasts;

impl Expiry<Key, Entry> for Lasts {
    fn expire_after_create(
        &self,
        _: &Key,
        entry: &Entry,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.lasts)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lasts)
    }
}
