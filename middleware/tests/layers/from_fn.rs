use streams_core::{
    Batch, BatchOutcome, Context, Error, ErrorKind, Handler, HandlerResult, Layer, Outcome,
    batch_fn, message_fn,
};
use streams_middleware::{Next, from_fn};
use tower::ServiceBuilder;

use crate::support::{Count, batch, batched, delivery, single, text, unavailable};

#[tokio::test]
async fn a_closure_runs_around_the_handler() {
    let before = Count::default();
    let counted = before.clone();
    let count = from_fn(move |context: Context, next: Next<_>| {
        let counted = counted.clone();
        async move {
            counted.add();
            match next.run(context).await {
                Err(error) => Ok(Outcome::dead_letter(error.to_string())),
                done => done,
            }
        }
    });
    let handler = count.layer(single(|_| Err(unavailable().into())));
    let outcome = handler.handle(&delivery()).await.unwrap();
    assert_eq!(outcome, Outcome::dead_letter("down for a moment"));
    assert_eq!(before.get(), 1);
}

async fn twice<H: Handler>(context: Context, next: Next<H>) -> HandlerResult {
    next.clone().run(context.clone()).await?;
    next.run(context.with_attempt(2)).await
}

#[tokio::test]
async fn a_function_does_too_and_may_change_what_it_passes_on() {
    let calls = Count::default();
    let counted = calls.clone();
    let handler = ServiceBuilder::new()
        .layer(from_fn(twice))
        .service(message_fn(move |_, context: Context| {
            counted.add();
            async move { Outcome::dead_letter(context.attempt().to_string()) }
        }));
    assert_eq!(
        handler.handle(&delivery()).await.unwrap(),
        Outcome::dead_letter("2")
    );
    assert_eq!(calls.get(), 2);
}

#[tokio::test]
async fn batches_have_closures_of_their_own() {
    let only_even = from_fn(|batch: Batch, next: Next<_>| async move {
        let results = next.run(batch).await.into_results();
        let even = |index: usize| index.is_multiple_of(2);
        let refused = || Error::new(ErrorKind::Unrecoverable, "odd").into();
        results
            .into_iter()
            .enumerate()
            .map(|(index, result)| if even(index) { result } else { Err(refused()) })
            .collect::<BatchOutcome>()
    });
    let handler = only_even.layer(batched(|_| Ok(Outcome::Ack)));
    let results = handler
        .handle(&batch(&["a", "b", "c"]))
        .await
        .into_results();
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok());
}

#[tokio::test]
async fn the_handler_need_not_be_called() {
    let calls = Count::default();
    let counted = calls.clone();
    let handler = from_fn(|batch: Batch, next: Next<_>| async move {
        if batch.iter().any(|item| text(item.message()) == "skip") {
            return batch.ack_all();
        }
        next.run(batch).await
    })
    .layer(batch_fn(move |batch: Batch| {
        counted.add();
        async move { batch.ack_all() }
    }));
    handler.handle(&batch(&["a", "skip"])).await;
    assert_eq!(calls.get(), 0);
    handler.handle(&batch(&["a"])).await;
    assert_eq!(calls.get(), 1);
}
