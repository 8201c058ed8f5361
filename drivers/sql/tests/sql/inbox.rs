//! The inbox: a message that comes twice is handled once.

mod exactly_once;

use std::time::Duration;

use streams_core::{Claim, ClaimId, DeduplicationStorage, ErrorKind, MessageId};
use streams_sql::{Inbox, InboxBuilder};

use crate::support::{Test, TestDatabase};

on_each_database! {
    a_claim_is_committed_or_released,
    one_of_many_claims_is_acquired,
    an_expired_claim_is_taken_over_by_one,
    what_was_handled_is_forgotten_after_its_retention,
    names_are_equal_byte_by_byte,
    what_has_expired_is_cleaned_up,
    it_cleans_up_by_itself,
    bad_settings_are_refused,
}

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn inbox<DB: TestDatabase>(test: &Test<DB>) -> Inbox<DB> {
    let inbox = Inbox::builder(test.pool.clone()).build().unwrap();
    inbox.migrate().await.unwrap();
    inbox
}

fn id(text: &str) -> MessageId {
    MessageId::new(text).unwrap()
}

async fn acquire<DB: TestDatabase>(inbox: &Inbox<DB>, group: &str, id: &MessageId) -> ClaimId {
    match inbox.claim(group, id, MINUTE).await.unwrap() {
        Claim::Acquired(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// Lets all claims and memories end, by the only clock that counts.
async fn expire<DB: TestDatabase>(test: &Test<DB>) {
    test.execute("UPDATE streams_inbox SET expires = 1").await;
}

async fn a_claim_is_committed_or_released<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    let id = id("order-17");
    let claim = acquire(&inbox, "billing", &id).await;
    let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
    assert_eq!(again, Claim::InProgress);
    // Another group is not concerned.
    acquire(&inbox, "mail", &id).await;

    // Only who holds the claim ends it.
    let stranger = ClaimId(1);
    inbox.release("billing", &id, stranger).await.unwrap();
    let committed = inbox.commit("billing", &id, stranger, MINUTE).await;
    assert!(!committed.unwrap());
    inbox.release("billing", &id, claim).await.unwrap();
    let committed = inbox.commit("billing", &id, claim, MINUTE).await;
    assert!(!committed.unwrap(), "it was released");

    let claim = acquire(&inbox, "billing", &id).await;
    let committed = inbox.commit("billing", &id, claim, MINUTE).await;
    assert!(committed.unwrap());
    for _ in 0..2 {
        let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
        assert_eq!(again, Claim::Done);
    }
    // A release that comes too late does not bring it back.
    inbox.release("billing", &id, claim).await.unwrap();
    let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
    assert_eq!(again, Claim::Done);
}

/// Claims a message from eight tasks at once; returns how many got it.
async fn race<DB: TestDatabase>(inbox: &Inbox<DB>, id: &MessageId) -> usize {
    let race = |(inbox, id): (Inbox<DB>, MessageId)| async move {
        inbox.claim("billing", &id, MINUTE).await.unwrap()
    };
    let tasks = (0..8).map(|_| tokio::spawn(race((inbox.clone(), id.clone()))));
    let tasks: Vec<_> = tasks.collect();
    let mut acquired = 0;
    for task in tasks {
        match task.await.unwrap() {
            Claim::Acquired(_) => acquired += 1,
            other => assert_eq!(other, Claim::InProgress),
        }
    }
    acquired
}

async fn one_of_many_claims_is_acquired<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    for number in 0..20 {
        assert_eq!(race(&inbox, &id(&number.to_string())).await, 1);
    }
}

async fn an_expired_claim_is_taken_over_by_one<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    let id = id("order-17");
    for _ in 0..20 {
        let late = match inbox.claim("billing", &id, MINUTE).await.unwrap() {
            Claim::Acquired(claim) => claim,
            _ => ClaimId(0),
        };
        expire(&test).await;
        assert_eq!(race(&inbox, &id).await, 1);
        // Who comes late cannot end the claim of the one who took over.
        let committed = inbox.commit("billing", &id, late, MINUTE).await;
        assert!(!committed.unwrap());
        inbox.release("billing", &id, late).await.unwrap();
        let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
        assert_eq!(again, Claim::InProgress);
    }
}

async fn what_was_handled_is_forgotten_after_its_retention<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    let id = id("order-17");
    let claim = acquire(&inbox, "billing", &id).await;
    inbox
        .commit("billing", &id, claim, Duration::MAX)
        .await
        .unwrap();
    let again = inbox.claim("billing", &id, MINUTE).await.unwrap();
    assert_eq!(again, Claim::Done);
    expire(&test).await;
    acquire(&inbox, "billing", &id).await;
    // A claim that has expired and was taken over by nobody is still ours to commit.
    expire(&test).await;
    let claim = acquire(&inbox, "billing", &id).await;
    expire(&test).await;
    let committed = inbox.commit("billing", &id, claim, MINUTE).await;
    assert!(committed.unwrap());
}

/// MariaDB's texts take much for equal, such as with spaces behind it.
async fn names_are_equal_byte_by_byte<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    for name in ["a", "A", "a ", "ä", "Ä", "a\u{308}", "👍"] {
        acquire(&inbox, "billing", &id(name)).await;
        acquire(&inbox, name, &id("order-17")).await;
    }
    let longest = "ä".repeat(256);
    acquire(&inbox, &longest, &id(&"ü".repeat(127))).await;
    let longer = format!("{longest}x");
    let error = inbox.claim(&longer, &id("a"), MINUTE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

/// 2500 rows that have expired, and one that has not.
async fn fill<DB: TestDatabase>(test: &Test<DB>, inbox: &Inbox<DB>) {
    acquire(inbox, "mail", &id("alive")).await;
    let row = |number| format!("('billing', '{number}', NULL, 1)");
    let rows: Vec<_> = (0..2500).map(row).collect();
    let sql = format!(
        "INSERT INTO streams_inbox (group_name, message_id, claim, expires) VALUES {}",
        rows.join(", ")
    );
    test.execute(&sql).await;
}

async fn what_has_expired_is_cleaned_up<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    assert_eq!(inbox.clean_up().await.unwrap(), 0);
    fill(&test, &inbox).await;
    assert_eq!(inbox.clean_up().await.unwrap(), 2500);
    let left = test.rows("SELECT expires FROM streams_inbox").await;
    assert_eq!(left.len(), 1);
    assert_eq!(inbox.clean_up().await.unwrap(), 0);
}

async fn it_cleans_up_by_itself<DB: TestDatabase>(test: Test<DB>) {
    inbox(&test).await;
    let inbox = Inbox::builder(test.pool.clone());
    let inbox = inbox.cleanup_interval(Some(Duration::from_nanos(1)));
    let inbox = inbox.build().unwrap();
    fill(&test, &inbox).await;
    // The test's own time limit is the only one.
    while test.count("streams_inbox").await > 1 {
        let again = inbox.claim("mail", &id("alive"), MINUTE).await.unwrap();
        assert_eq!(again, Claim::InProgress);
    }
}

async fn bad_settings_are_refused<DB: TestDatabase>(test: Test<DB>) {
    type Change<DB> = fn(InboxBuilder<DB>) -> InboxBuilder<DB>;
    let changes: [Change<DB>; 2] = [
        |builder| builder.retention(Duration::ZERO),
        |builder| builder.cleanup_interval(Some(Duration::ZERO)),
    ];
    for change in changes {
        let inbox = change(Inbox::builder(test.pool.clone())).build();
        assert_eq!(inbox.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    let inbox = Inbox::builder(test.pool.clone()).build().unwrap();
    let claimed = inbox.claim("billing", &id("a"), MINUTE).await;
    assert_eq!(claimed.unwrap_err().kind(), ErrorKind::NotFound);
}
