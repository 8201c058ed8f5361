use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{
    Backoff, Batch, Claim, ClaimId, Context, DeduplicationStorage, ErrorKind, Handler,
    HandlerResult, Layer, Message, MessageId, Outcome, Result, async_trait, batch_fn, message_fn,
};
use streams_middleware::{Deduplication, MokaStorage};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use tokio::time::{advance, sleep, timeout};
use tracing::level_filters::LevelFilter;

use crate::support::{Count, Log, delivery, single, text, unavailable};

const SECOND: Duration = Duration::from_secs(1);
const EXPIRY: Duration = Duration::from_secs(60);
const RETENTION: Duration = Duration::from_secs(600);

fn storage() -> Arc<MokaStorage> {
    Arc::new(MokaStorage::new(1000).unwrap())
}

fn layer(storage: &Arc<MokaStorage>) -> Deduplication {
    Deduplication::builder(storage.clone())
        .group("g")
        .claim_expiry(EXPIRY)
        .retention(RETENTION)
        .backoff(Backoff::constant(SECOND))
        .build()
        .unwrap()
}

async fn acquire(storage: &MokaStorage, id: &MessageId) -> ClaimId {
    match storage.claim("g", id, EXPIRY).await.unwrap() {
        Claim::Acquired(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_handled_once_and_remembered_for_the_retention() {
    let (storage, calls) = (storage(), Count::default());
    let counted = calls.clone();
    let handler = layer(&storage).layer(single(move |_| {
        counted.add();
        Ok(Outcome::Ack)
    }));
    let context = delivery();
    for _ in 0..3 {
        assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
    }
    assert_eq!(calls.get(), 1);
    handler.handle(&delivery()).await.unwrap();
    assert_eq!(calls.get(), 2, "another message");

    advance(RETENTION).await;
    handler.handle(&context).await.unwrap();
    assert_eq!(calls.get(), 3, "forgotten");
}

#[tokio::test]
async fn only_what_is_acknowledged_is_remembered() {
    let results: [fn() -> HandlerResult; 5] = [
        || Err(unavailable().into()),
        || Err(crate::support::poison().into()),
        || Ok(Outcome::Retry { after: None }),
        || Ok(Outcome::Release),
        // The dead letter is yet to be written: should that fail, the message must come again.
        || Ok(Outcome::dead_letter("why")),
    ];
    for result in results {
        let storage = storage();
        let handler = layer(&storage).layer(single(move |_| result()));
        let context = delivery();
        let _ = handler.handle(&context).await;
        let claim = storage
            .claim("g", context.message().id(), EXPIRY)
            .await
            .unwrap();
        assert!(
            matches!(claim, Claim::Acquired(_)),
            "{:?}: {claim:?}",
            result()
        );
    }
}

#[tokio::test]
async fn a_panic_releases_the_claim() {
    async fn broken() -> Outcome {
        panic!("on purpose")
    }
    let storage = storage();
    let handler = layer(&storage).layer(message_fn(|_, _| broken()));
    let context = delivery();
    assert_eq!(
        handler.handle(&context).await.unwrap_err().kind(),
        ErrorKind::Panic
    );
    acquire(&storage, context.message().id()).await;
}

#[tokio::test(start_paused = true)]
async fn while_another_is_at_it_the_message_waits() {
    let (storage, calls) = (storage(), Count::default());
    let counted = calls.clone();
    let handler = layer(&storage).layer(single(move |_| {
        counted.add();
        Ok(Outcome::Ack)
    }));
    let context = delivery();
    let claim = acquire(&storage, context.message().id()).await;
    assert_eq!(
        handler.handle(&context).await.unwrap(),
        Outcome::postpone(SECOND)
    );
    assert_eq!(calls.get(), 0);
    assert!(
        storage
            .commit("g", context.message().id(), claim, RETENTION)
            .await
            .unwrap()
    );
    assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
    assert_eq!(calls.get(), 0, "it has been handled");
}

#[tokio::test(start_paused = true)]
async fn the_claim_of_a_worker_that_died_expires_and_cannot_come_back() {
    let (storage, calls) = (storage(), Count::default());
    let id = delivery().message().id().clone();
    let dead = acquire(&storage, &id).await;
    advance(EXPIRY - SECOND).await;
    assert_eq!(
        storage.claim("g", &id, EXPIRY).await.unwrap(),
        Claim::InProgress
    );
    advance(SECOND).await;
    let thief = acquire(&storage, &id).await;
    assert!(
        !storage.commit("g", &id, dead, RETENTION).await.unwrap(),
        "it is another's now"
    );
    storage.release("g", &id, dead).await.unwrap();
    assert_eq!(
        storage.claim("g", &id, EXPIRY).await.unwrap(),
        Claim::InProgress,
        "still the thief's"
    );
    assert!(storage.commit("g", &id, thief, RETENTION).await.unwrap());
    storage.release("g", &id, thief).await.unwrap();
    assert_eq!(
        storage.claim("g", &id, EXPIRY).await.unwrap(),
        Claim::Done,
        "done is done"
    );
    assert!(
        !storage.commit("g", &id, thief, RETENTION).await.unwrap(),
        "once"
    );
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn handling_for_longer_than_the_claim_lasts_is_acknowledged_and_told() {
    let log = Log::capture(LevelFilter::INFO);
    let storage = storage();
    let handler = layer(&storage).layer(message_fn(|_, _| sleep(2 * EXPIRY)));
    assert_eq!(handler.handle(&delivery()).await.unwrap(), Outcome::Ack);
    let events = log.events("dedup");
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(
        events[0]
            .get("message")
            .unwrap()
            .contains("raise the claim expiry")
    );
}

#[tokio::test(start_paused = true)]
async fn a_handling_that_is_dropped_gives_its_claim_up() {
    let storage = storage();
    let handler = layer(&storage).layer(message_fn(|_, _| std::future::pending::<()>()));
    let context = delivery();
    assert!(timeout(SECOND, handler.handle(&context)).await.is_err());
    tokio::task::yield_now().await;
    acquire(&storage, context.message().id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_any_number_that_race_one_acquires() {
    let storage = storage();
    for _ in 0..20 {
        let id = delivery().message().id().clone();
        let start = Arc::new(Barrier::new(32));
        let mut tasks = JoinSet::new();
        for _ in 0..32 {
            let (storage, id, start) = (storage.clone(), id.clone(), start.clone());
            tasks.spawn(async move {
                start.wait().await;
                matches!(
                    storage.claim("g", &id, EXPIRY).await.unwrap(),
                    Claim::Acquired(_)
                )
            });
        }
        let acquired = tasks
            .join_all()
            .await
            .into_iter()
            .filter(|acquired| *acquired)
            .count();
        assert_eq!(acquired, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_workers_with_one_message_one_handles_it() {
    let (storage, calls) = (storage(), Count::default());
    let counted = calls.clone();
    let handler = Arc::new(layer(&storage).layer(message_fn(move |_, _| {
        counted.add();
        tokio::task::yield_now()
    })));
    let context = delivery();
    let start = Arc::new(Barrier::new(32));
    let mut tasks = JoinSet::new();
    for _ in 0..32 {
        let (handler, context, start) = (handler.clone(), context.clone(), start.clone());
        tasks.spawn(async move {
            start.wait().await;
            handler.handle(&context).await.unwrap()
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(calls.get(), 1);
    assert!(
        outcomes
            .iter()
            .all(|o| matches!(o, Outcome::Ack | Outcome::Postpone { .. })),
        "{outcomes:?}"
    );
}

/// Messages with these ids, the id as data.
fn batch(ids: &[&'static str]) -> Batch {
    Batch::for_test(ids.iter().map(|id| {
        let message = Message::builder("orders")
            .id(MessageId::new(id).unwrap())
            .data(*id);
        Context::for_test(message.build().unwrap())
    }))
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_is_claimed_is_handled() {
    let (storage, seen) = (storage(), Arc::new(Mutex::new(Vec::new())));
    let done = MessageId::new("done").unwrap();
    let claim = acquire(&storage, &done).await;
    assert!(storage.commit("g", &done, claim, RETENTION).await.unwrap());
    acquire(&storage, &MessageId::new("busy").unwrap()).await;

    let log = seen.clone();
    let handler = layer(&storage).layer(batch_fn(move |batch: Batch| {
        log.lock().unwrap().push(
            batch
                .iter()
                .map(|item| text(item.message()).to_owned())
                .collect::<Vec<_>>(),
        );
        async move {
            batch
                .iter()
                .map(|item| match text(item.message()) {
                    "fails" => Err(unavailable().into()),
                    _ => Ok(Outcome::Ack),
                })
                .collect()
        }
    }));
    let batch = batch(&["a", "done", "fails", "busy", "b"]);
    let results = handler.handle(&batch).await.into_results();
    assert_eq!(results[0].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(results[1].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(
        results[2].as_ref().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(results[3].as_ref().unwrap(), &Outcome::postpone(SECOND));
    assert_eq!(results[4].as_ref().unwrap(), &Outcome::Ack);
    assert_eq!(*seen.lock().unwrap(), [["a", "fails", "b"]]);

    // What failed can be claimed again, the others not.
    let results = handler.handle(&batch).await.into_results();
    assert_eq!(
        results
            .iter()
            .filter(|result| matches!(result, Ok(Outcome::Ack)))
            .count(),
        3
    );
    assert_eq!(seen.lock().unwrap()[1], ["fails"]);

    // With nothing left to handle, the handler is not called.
    let rest = self::batch(&["a", "done", "b"]);
    let results = handler.handle(&rest).await.into_results();
    assert!(
        results
            .iter()
            .all(|result| matches!(result, Ok(Outcome::Ack)))
    );
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_message_twice_in_a_batch_is_handled_once() {
    let (storage, calls) = (storage(), Count::default());
    let counted = calls.clone();
    let handler = layer(&storage).layer(crate::support::batched(move |data| {
        counted.add();
        match data {
            "fails" => Err(unavailable().into()),
            "later" => Ok(Outcome::retry_after(3 * SECOND)),
            _ => Ok(Outcome::Ack),
        }
    }));
    let results = handler
        .handle(&batch(&["a", "a", "fails", "later", "fails", "a", "later"]))
        .await;
    let results = results.into_results();
    assert_eq!(calls.get(), 3);
    for index in [0, 1, 5] {
        assert_eq!(
            results[index].as_ref().unwrap(),
            &Outcome::Ack,
            "with the first"
        );
    }
    assert!(results[2].is_err());
    assert_eq!(
        results[4].as_ref().unwrap(),
        &Outcome::postpone(SECOND),
        "not acknowledged: the first failed"
    );
    assert_eq!(
        results[6].as_ref().unwrap(),
        &Outcome::retry_after(3 * SECOND)
    );
}

#[tokio::test]
async fn large_batches_keep_their_order() {
    let storage = storage();
    let ids: Vec<&'static str> = (0..100)
        .map(|i| &*Box::leak(format!("m{i}").into_boxed_str()))
        .collect();
    let handler = layer(&storage).layer(crate::support::batched(|data| {
        Ok(Outcome::dead_letter(data))
    }));
    let mut twice = ids.clone();
    twice.extend(&ids[..1]);
    let results = handler.handle(&batch(&twice)).await.into_results();
    for (id, result) in ids.iter().zip(&results) {
        assert_eq!(result.as_ref().unwrap(), &Outcome::dead_letter(*id));
    }
    assert!(
        matches!(results[100], Ok(Outcome::Postpone { .. })),
        "{:?}",
        results[100]
    );
}

#[tokio::test]
async fn groups_and_streams_do_not_share_their_memory() {
    let (storage, calls) = (storage(), Count::default());
    let counted = calls.clone();
    let handler = Deduplication::new(storage.clone()).layer(single(move |_| {
        counted.add();
        Ok(Outcome::Ack)
    }));
    let message = crate::support::message("x");
    let dead = message.to_builder().stream("orders.dlq").build().unwrap();
    handler
        .handle(&Context::for_test(message.clone()))
        .await
        .unwrap();
    handler.handle(&Context::for_test(dead)).await.unwrap();
    assert_eq!(
        calls.get(),
        2,
        "a copy in another stream is another message"
    );
    handler
        .handle(&Context::for_test(message.clone()))
        .await
        .unwrap();
    assert_eq!(calls.get(), 2);
    let claim = storage
        .claim("test:orders", message.id(), EXPIRY)
        .await
        .unwrap();
    assert_eq!(claim, Claim::Done, "remembered under group and stream");
}

/// A storage whose calls fail when asked to.
struct Flaky {
    inner: Arc<MokaStorage>,
    claims: AtomicBool,
    commits: AtomicBool,
    claimed: Notify,
}

#[async_trait]
impl DeduplicationStorage for Flaky {
    async fn claim(&self, group: &str, id: &MessageId, expiry: Duration) -> Result<Claim> {
        if self.claims.load(Ordering::SeqCst) {
            return Err(unavailable());
        }
        self.claimed.notify_one();
        self.inner.claim(group, id, expiry).await
    }

    async fn commit(
        &self,
        group: &str,
        id: &MessageId,
        claim: ClaimId,
        retention: Duration,
    ) -> Result<bool> {
        if self.commits.load(Ordering::SeqCst) {
            return Err(unavailable());
        }
        self.inner.commit(group, id, claim, retention).await
    }

    async fn release(&self, group: &str, id: &MessageId, claim: ClaimId) -> Result<()> {
        self.inner.release(group, id, claim).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_storage_loses_nothing() {
    let log = Log::capture(LevelFilter::INFO);
    let storage = Arc::new(Flaky {
        inner: storage(),
        claims: AtomicBool::new(true),
        commits: AtomicBool::new(false),
        claimed: Notify::new(),
    });
    let calls = Count::default();
    let counted = calls.clone();
    let settings = Deduplication::builder(storage.clone())
        .claim_expiry(EXPIRY)
        .backoff(Backoff::new(SECOND, 8 * SECOND).jitter(false));
    let handler = settings.build().unwrap().layer(single(move |_| {
        counted.add();
        Ok(Outcome::Ack)
    }));
    let context = delivery();
    for (attempt, seconds) in [(1, 1), (2, 2), (20, 8)] {
        let outcome = handler
            .handle(&context.clone().with_attempt(attempt))
            .await
            .unwrap();
        assert_eq!(
            outcome,
            Outcome::postpone(seconds * SECOND),
            "no error, so never a dead letter"
        );
    }
    assert_eq!(calls.get(), 0);
    assert!(
        log.events("dedup")
            .iter()
            .all(|event| event.level == tracing::Level::ERROR)
    );

    // Handled, but that cannot be recorded: acknowledged, and handled again only if it comes again
    // after the claim has expired.
    storage.claims.store(false, Ordering::SeqCst);
    storage.commits.store(true, Ordering::SeqCst);
    assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
    assert_eq!(
        handler.handle(&context).await.unwrap(),
        Outcome::postpone(SECOND)
    );
    advance(EXPIRY).await;
    storage.commits.store(false, Ordering::SeqCst);
    assert_eq!(handler.handle(&context).await.unwrap(), Outcome::Ack);
    assert_eq!(calls.get(), 2);
}

#[test]
fn settings_are_checked() {
    let builder = || Deduplication::builder(storage());
    for bad in [
        builder().claim_expiry(Duration::ZERO),
        builder().retention(Duration::ZERO),
        builder().group(""),
        builder().backoff(Backoff::constant(Duration::ZERO)),
    ] {
        assert_eq!(bad.build().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    assert_eq!(
        MokaStorage::new(0).unwrap_err().kind(),
        ErrorKind::InvalidConfig
    );
}
