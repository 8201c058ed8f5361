//! The inbox as a storage of the deduplication middleware.

use std::time::Duration;

use streams_core::{Claim, ClaimId, DeduplicationStorage, MessageId, Result, async_trait};

use super::{Inbox, key, millis};
use crate::database::{Database, Value};

/// Claims and commits are statements of their own, outside of any transaction. An expired claim is
/// taken over by one worker alone.
#[async_trait]
impl<DB: Database> DeduplicationStorage for Inbox<DB> {
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim> {
        self.clean_up_now_and_then();
        let failed = |source| self.failed(source, "claim");
        let this = key(group, id)?;
        let claim = ClaimId(fastrand::u128(..));
        let (text, expiry) = (hex(claim), Value::Int(millis(expiry)));
        let ours = [Value::Text(&text), expiry, this[0], this[1]];
        let sql = &self.0.sql;

        let mut connection = self.0.pool.acquire().await.map_err(failed)?;
        let inserted = DB::execute(&mut connection, &sql.insert, &ours).await;
        if inserted.map_err(failed)? > 0 {
            return Ok(Claim::Acquired(claim));
        }
        let rows = DB::fetch(&mut connection, &sql.look, &this).await;
        let rows = rows.map_err(failed)?;
        let Some(row) = rows.first() else {
            // Released this moment. Whoever comes next finds it free.
            return Ok(Claim::InProgress);
        };
        if DB::int(row, 0).map_err(failed)? == 0 {
            return Ok(match DB::maybe_text(row, 1).map_err(failed)? {
                Some(_) => Claim::InProgress,
                None => Claim::Done,
            });
        }
        let taken = DB::execute(&mut connection, &sql.take_over, &ours).await;
        Ok(match taken.map_err(failed)? {
            0 => Claim::InProgress,
            _ => Claim::Acquired(claim),
        })
    }

    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool> {
        let failed = |source| self.failed(source, "commit");
        let this = key(group, id)?;
        let text = hex(claim);
        let values = [
            Value::Int(millis(retention)),
            this[0],
            this[1],
            Value::Text(&text),
        ];
        let mut connection = self.0.pool.acquire().await.map_err(failed)?;
        let changed = DB::execute(&mut connection, &self.0.sql.commit, &values).await;
        Ok(changed.map_err(failed)? > 0)
    }

    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()> {
        let failed = |source| self.failed(source, "release");
        let this = key(group, id)?;
        let text = hex(claim);
        let values = [this[0], this[1], Value::Text(&text)];
        let mut connection = self.0.pool.acquire().await.map_err(failed)?;
        let deleted = DB::execute(&mut connection, &self.0.sql.release, &values).await;
        deleted.map_err(failed)?;
        Ok(())
    }
}

fn hex(claim: ClaimId) -> String {
    format!("{:032x}", claim.0)
}
