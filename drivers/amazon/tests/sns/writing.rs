//! What writers do when something fails.

use std::time::{Duration, SystemTime};

use streams_core::{Driver, ErrorKind, Message, ReadOptions, dead_letter};

use crate::failing::{Setup as _, kinds, tests_of};
use crate::messages::{Reading, stream};
use crate::proxy::Fault;
use crate::support::Setup;

tests_of! {
    Setup:
    of_a_batch_exactly_those_that_failed_are_named,
    throttling_errors_of_the_server_and_resets_pass,
    a_server_that_stays_away_fails_all_and_says_that_trying_again_may_help,
    with_fifo_nothing_overtakes_what_failed,
    what_is_too_large_is_refused_by_index_before_anything_is_sent,
    large_messages_go_in_several_requests,
    a_clock_that_is_wrong_is_said,
    a_name_that_cannot_be_is_refused,
}

#[tokio::test]
async fn nothing_is_delayed() {
    for setup in [Setup::new("delay").await, Setup::fifo("delay").await] {
        let due = SystemTime::now() + Duration::from_secs(60);
        let messages = setup.messages(2, 1);
        let written = setup.sns.writer().write_at(&messages, due).await;
        let error = written.unwrap_err();
        assert_eq!(kinds(&error), [ErrorKind::Unsupported].into());
        assert!(error.indices().eq(0..2));
    }
}

#[tokio::test]
async fn a_topic_that_is_missing_or_deleted_is_not_found_or_created_again() {
    let setup = Setup::new("gone").await;
    let again = setup.sns.clone();
    again.writer().write(&setup.messages(1, 1)).await.unwrap();
    again.delete_topic(&setup.stream).await.unwrap();
    again.writer().write(&setup.messages(1, 1)).await.unwrap();
    assert_eq!(setup.proxy.requests("CreateTopic").len(), 2);

    let plain = crate::support::driver(&setup.proxy.endpoint()).await;
    let plain = plain.queues(crate::support::queues().await);
    let plain = plain.build().await.unwrap();
    let mut messages = setup.messages(3, 3);
    let nowhere = messages[1].to_builder().stream(stream("nowhere"));
    messages[1] = nowhere.build().unwrap();
    let error = plain.writer().write(&messages).await.unwrap_err();
    assert_eq!(error.indices().collect::<Vec<_>>(), [1]);
    assert_eq!(kinds(&error), [ErrorKind::NotFound].into());
    plain.delete_topic(&setup.stream).await.unwrap();
    let error = plain.writer().write(&setup.messages(2, 2)).await;
    assert_eq!(kinds(&error.unwrap_err()), [ErrorKind::NotFound].into());
}

#[tokio::test]
async fn dead_letters_are_kept_though_nobody_reads_them_yet() {
    let setup = Setup::new("dead").await;
    let dead = setup.stream.dead_letters().unwrap();
    let letter = Message::builder(&dead)
        .header(dead_letter::headers::STREAM, setup.stream.as_str())
        .data("x")
        .build()
        .unwrap();
    setup.write(std::slice::from_ref(&letter)).await;
    let options = ReadOptions::new(&dead).unwrap();
    assert_eq!(
        Reading::of(&setup.sns, &options).await.message().await,
        letter
    );
}

#[tokio::test]
async fn connecting_says_whether_aws_answers() {
    let setup = Setup::new("connect").await;
    setup.sns.connect().await.unwrap();
    let denied = Fault::Refuse(403, "AuthorizationError");
    setup.proxy.fail("ListTopics", [denied]);
    setup.sns.connect().await.unwrap();
    let refused = Fault::Refuse(403, "InvalidClientTokenId");
    for (faults, kind) in [
        (vec![refused], ErrorKind::Permission),
        (vec![Fault::Reset; 3], ErrorKind::Unavailable),
    ] {
        setup.proxy.fail("ListTopics", faults);
        let error = setup.sns.connect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}
