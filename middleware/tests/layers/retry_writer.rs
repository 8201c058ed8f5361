use std::sync::Arc;
use std::time::{Duration, SystemTime};

use streams_core::{Backoff, Error, ErrorKind, Message, MessageId, NoopWriter, StreamName, Writer};
use streams_middleware::RetryWriter;
use tokio::time::Instant;

use crate::support::{Kept, message, unavailable};

const SECOND: Duration = Duration::from_secs(1);

fn retrying(writer: &Arc<Kept>, attempts: u32) -> RetryWriter {
    let backoff = Backoff::new(SECOND, 8 * SECOND).jitter(false);
    RetryWriter::new(writer.clone(), backoff, attempts).unwrap()
}

fn messages(data: &[&'static str]) -> Vec<Message> {
    data.iter().map(|data| message(data)).collect()
}

#[tokio::test(start_paused = true)]
async fn only_what_failed_is_written_again() {
    let writer =
        Kept::failing(|call, data| (data.starts_with("later") && call < 3).then(unavailable));
    let started = Instant::now();
    retrying(&writer, 5)
        .write(&messages(&["a", "later 1", "b", "later 2"]))
        .await
        .unwrap();
    assert_eq!(writer.texts(), ["a", "b", "later 1", "later 2"]);
    assert_eq!((writer.calls.get(), started.elapsed()), (3, 3 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_written_in_the_end_is_named_by_its_place_in_the_batch() {
    let writer = Kept::failing(|call, data| match data {
        "too large" => Some(Error::new(ErrorKind::TooLarge, "too large")),
        "never" => Some(unavailable()),
        "second time" if call == 1 => Some(unavailable()),
        _ => None,
    });
    let batch = messages(&["a", "too large", "second time", "never"]);
    let error = retrying(&writer, 3).write(&batch).await.unwrap_err();
    let failures: Vec<_> = error
        .failures()
        .iter()
        .map(|(index, error)| (*index, error.kind()))
        .collect();
    assert_eq!(
        failures,
        [(1, ErrorKind::TooLarge), (3, ErrorKind::Unavailable)]
    );
    assert_eq!(writer.texts(), ["a", "second time"]);
    assert_eq!(writer.calls.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_help_is_not_tried() {
    let writer = Kept::failing(|_, _| Some(Error::closed("the writer")));
    let error = retrying(&writer, 5)
        .write(&messages(&["a"]))
        .await
        .unwrap_err();
    assert_eq!(error.into_error().kind(), ErrorKind::Closed);
    assert_eq!(writer.calls.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn scheduled_messages_are_retried_and_the_rest_is_passed_on() {
    let writer = Kept::failing(|call, _| (call == 1).then(unavailable));
    let retrying = retrying(&writer, 2);
    retrying
        .write_at(&messages(&["a"]), SystemTime::now())
        .await
        .unwrap();
    assert_eq!(writer.texts(), ["a"]);
    assert!(
        retrying.try_write(&messages(&["b"])).is_none(),
        "that could not wait"
    );
    assert_eq!(retrying.capabilities().driver, "kept");
    let (stream, id) = (StreamName::new("s").unwrap(), MessageId::new("i").unwrap());
    assert_eq!(
        retrying.cancel(&stream, &id).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    retrying.flush().await.unwrap();
    retrying.close().await.unwrap();
}

#[test]
fn settings_are_checked() {
    let writer = Arc::new(NoopWriter::new());
    let none = RetryWriter::new(writer.clone(), Backoff::default(), 0);
    let hot = RetryWriter::new(writer, Backoff::constant(Duration::ZERO), 1);
    for error in [none.unwrap_err(), hot.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}
