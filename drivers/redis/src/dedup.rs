//! The storage of the deduplication middleware.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use streams_core::{
    Claim, ClaimId, DeduplicationStorage, ErrorKind, MessageId, Result, async_trait,
};

use crate::client::Link;
use crate::error::{error, failed};
use crate::group::millis;
use crate::{Redis, scripts};

/// Remembers in Redis which group has handled which message: a key for each, which the server removes
/// when its time is over, by its own clock. Cheap to clone; clones share a connection.
///
/// ```no_run
/// use streams_redis::{Redis, RedisDeduplication};
///
/// # fn doc() -> streams_core::Result<()> {
/// let redis = Redis::builder("redis://localhost:6379").build()?;
/// let storage = RedisDeduplication::new(&redis);
/// // Deduplication::new(storage, "mailer") of `streams-middleware`
/// # let _ = storage;
/// # Ok(()) }
/// ```
///
/// A server that loses its data forgets what was handled; so does one that evicts keys
/// (`maxmemory-policy` other than `noeviction`).
#[derive(Clone)]
pub struct RedisDeduplication {
    link: Arc<Link>,
    prefix: Arc<str>,
}

impl RedisDeduplication {
    /// A storage on the driver's server. Keys begin with `streams:handled:`.
    #[must_use]
    pub fn new(redis: &Redis) -> Self {
        Self {
            link: redis.inner.link.clone(),
            prefix: "streams:handled:".into(),
        }
    }

    /// The key of a message. The group's length keeps `a:b` of `c` apart from `a` of `b:c`.
    fn key(&self, group: &str, id: &MessageId) -> String {
        format!("{}{}:{group}:{}", self.prefix, group.len(), id.as_str())
    }
}

impl fmt::Debug for RedisDeduplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDeduplication").finish_non_exhaustive()
    }
}

#[async_trait]
impl DeduplicationStorage for RedisDeduplication {
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim> {
        const DOING: &str = "claim";
        let claim = ClaimId(fastrand::u128(..));
        let mut script = scripts::DEDUP_CLAIM.key(self.key(group, id));
        script.arg(hex(claim)).arg(millis(expiry).max(1));
        let answer: RedisResult<u8> = self
            .link
            .call(async |connection| script.invoke_async(connection).await)
            .await;
        match answer.map_err(|e| error(e, DOING))? {
            0 => Ok(Claim::InProgress),
            1 => Ok(Claim::Acquired(claim)),
            2 => Ok(Claim::Done),
            _ => Err(failed(
                ErrorKind::Other,
                DOING,
                "the answer to a script is not understood",
            )),
        }
    }

    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool> {
        let mut script = scripts::DEDUP_COMMIT.key(self.key(group, id));
        script.arg(hex(claim)).arg(millis(retention).max(1));
        let answer: RedisResult<bool> = self
            .link
            .call(async |connection| script.invoke_async(connection).await)
            .await;
        answer.map_err(|e| error(e, "commit"))
    }

    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()> {
        let mut script = scripts::DEDUP_RELEASE.key(self.key(group, id));
        script.arg(hex(claim));
        let answer: RedisResult<u64> = self
            .link
            .call(async |connection| script.invoke_async(connection).await)
            .await;
        answer.map(drop).map_err(|e| error(e, "release"))
    }
}

fn hex(claim: ClaimId) -> String {
    format!("{:032x}", claim.0)
}
