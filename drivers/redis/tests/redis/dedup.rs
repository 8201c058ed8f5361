//! The storage of deduplication.

use std::time::Duration;

use futures_util::future::join_all;
use streams_core::{Claim, ClaimId, DeduplicationStorage as _, MessageId};
use streams_redis::RedisDeduplication;

use crate::support::{Test, until};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

async fn storage() -> (RedisDeduplication, MessageId) {
    let test = Test::shared().await;
    let id = MessageId::new(&test.stream).unwrap();
    (RedisDeduplication::new(&test.driver()), id)
}

fn acquired(claim: Claim) -> ClaimId {
    match claim {
        Claim::Acquired(id) => id,
        other => panic!("not acquired but {other:?}"),
    }
}

#[tokio::test]
async fn one_of_many_claims_a_message_and_it_is_done_when_committed() {
    let (storage, id) = storage().await;
    let claims = join_all((0..20).map(|_| storage.claim("a", &id, LONG))).await;
    let claims: Vec<_> = claims.into_iter().map(Result::unwrap).collect();
    let mine: Vec<_> = claims
        .iter()
        .filter(|c| matches!(c, Claim::Acquired(_)))
        .collect();
    assert_eq!(mine.len(), 1, "{claims:?}");
    assert!(
        storage
            .commit("a", &id, acquired(*mine[0]), LONG)
            .await
            .unwrap()
    );
    assert_eq!(storage.claim("a", &id, LONG).await.unwrap(), Claim::Done);
    // Another group handles it on its own.
    acquired(storage.claim("b", &id, LONG).await.unwrap());
}

#[tokio::test]
async fn a_released_claim_is_free_and_another_s_is_left_alone() {
    let (storage, id) = storage().await;
    let first = acquired(storage.claim("a", &id, LONG).await.unwrap());
    storage.release("a", &id, ClaimId(1)).await.unwrap();
    assert_eq!(
        storage.claim("a", &id, LONG).await.unwrap(),
        Claim::InProgress
    );
    storage.release("a", &id, first).await.unwrap();
    let second = acquired(storage.claim("a", &id, LONG).await.unwrap());
    storage.release("a", &id, first).await.unwrap();
    assert!(!storage.commit("a", &id, first, LONG).await.unwrap());
    assert!(storage.commit("a", &id, second, LONG).await.unwrap());
}

#[tokio::test]
async fn a_claim_of_a_worker_that_died_expires_and_it_is_told_when_it_comes_back() {
    let (storage, id) = storage().await;
    let dead = acquired(storage.claim("a", &id, SHORT).await.unwrap());
    let mut claim = Claim::InProgress;
    until("the claim has expired", async || {
        claim = storage.claim("a", &id, LONG).await.unwrap();
        claim != Claim::InProgress
    })
    .await;
    assert!(!storage.commit("a", &id, dead, LONG).await.unwrap());
    assert!(
        storage
            .commit("a", &id, acquired(claim), LONG)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn what_was_handled_is_remembered_so_long_and_no_longer() {
    let (storage, id) = storage().await;
    let claim = acquired(storage.claim("a", &id, LONG).await.unwrap());
    assert!(storage.commit("a", &id, claim, SHORT).await.unwrap());
    assert_eq!(storage.claim("a", &id, LONG).await.unwrap(), Claim::Done);
    until("it is forgotten", async || {
        matches!(
            storage.claim("a", &id, LONG).await.unwrap(),
            Claim::Acquired(_)
        )
    })
    .await;
}

#[tokio::test]
async fn what_is_committed_after_its_claim_expired_is_remembered_and_told() {
    let (storage, id) = storage().await;
    let claim = acquired(
        storage
            .claim("a", &id, Duration::from_millis(1))
            .await
            .unwrap(),
    );
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!storage.commit("a", &id, claim, LONG).await.unwrap());
    assert_eq!(storage.claim("a", &id, LONG).await.unwrap(), Claim::Done);
}

#[tokio::test]
async fn names_of_groups_and_ids_do_not_run_together() {
    let (storage, id) = storage().await;
    let longer = MessageId::new(format!("b:{}", id.as_str())).unwrap();
    acquired(storage.claim("a", &longer, LONG).await.unwrap());
    acquired(storage.claim("a:b", &id, LONG).await.unwrap());
}
