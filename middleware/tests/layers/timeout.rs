use std::time::Duration;

use streams_core::{
    Batch, Context, ErrorKind, Handler, Layer, Message, Outcome, batch_fn, message_fn,
};
use streams_middleware::Timeout;
use tokio::time::{Instant, sleep};

use crate::support::{batch, delivery};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_stopped() {
    let handler =
        Timeout::new(2 * SECOND)
            .unwrap()
            .layer(message_fn(|message: Message, _| async move {
                let long = crate::support::text(&message) == "long";
                sleep(if long { 3 * SECOND } else { SECOND }).await;
            }));
    assert_eq!(handler.handle(&delivery()).await.unwrap(), Outcome::Ack);

    let started = Instant::now();
    let error = handler
        .handle(&Context::for_test(crate::support::message("long")))
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), 2 * SECOND);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.is_unrecoverable(), "it is retried");
}

#[tokio::test(start_paused = true)]
async fn the_handler_sees_its_deadline_and_an_earlier_one_is_kept() {
    let handler = || {
        Timeout::new(2 * SECOND)
            .unwrap()
            .layer(message_fn(|_, context: Context| async move {
                Outcome::dead_letter(format!("{:?}", context.time_left().unwrap()))
            }))
    };
    assert_eq!(
        handler().handle(&delivery()).await.unwrap(),
        Outcome::dead_letter("2s")
    );
    let sooner = delivery().with_deadline(Instant::now() + SECOND);
    assert_eq!(
        handler().handle(&sooner).await.unwrap(),
        Outcome::dead_letter("1s")
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_the_time_together() {
    let handler = Timeout::new(2 * SECOND)
        .unwrap()
        .layer(batch_fn(|batch: Batch| async move {
            assert!(
                batch
                    .iter()
                    .all(|item| item.time_left() == Some(2 * SECOND))
            );
            sleep(3 * SECOND).await;
            batch.ack_all()
        }));
    let results = handler.handle(&batch(&["a", "b"])).await.into_results();
    assert_eq!(results.len(), 2);
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::Timeout)
    );
}

#[tokio::test]
async fn limits_beyond_time_are_none() {
    let handler = Timeout::new(Duration::MAX)
        .unwrap()
        .layer(message_fn(|_, _| async {}));
    assert_eq!(handler.handle(&delivery()).await.unwrap(), Outcome::Ack);
}

#[test]
fn zero_is_refused() {
    assert_eq!(
        Timeout::new(Duration::ZERO).unwrap_err().kind(),
        ErrorKind::InvalidConfig
    );
}
