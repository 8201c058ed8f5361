//! A handler's work in the database and the mark "handled" are one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use streams_core::{Context, ErrorKind, Handler, HandlerError, MessageId, Outcome, Publisher};
use streams_core::{Event, NoopWriter};
use streams_sql::{Inbox, Outbox, Transaction};
use tokio::sync::Notify;

use super::inbox;
use crate::support::{Test, TestDatabase, message};

on_each_database! {
    many_workers_handle_a_message_once,
    what_crashed_before_the_commit_comes_again,
    anything_but_an_acknowledgement_rolls_back,
    a_waiting_worker_goes_on_where_the_first_failed,
    a_mark_goes_with_its_transaction,
    what_is_published_in_it_is_part_of_it,
    a_swallowed_error_is_no_acknowledgement,
    an_outage_postpones,
}

async fn work<DB: TestDatabase>(tx: &Transaction<DB>, id: &str) -> sqlx::Result<u64> {
    let sql = format!("INSERT INTO bookings VALUES ('{id}')");
    let mut connection = tx.connection().await.unwrap();
    DB::run_on(&mut connection, &sql).await
}

async fn bookings<DB: TestDatabase>(test: &Test<DB>) -> Inbox<DB> {
    let table = "CREATE TABLE bookings (id VARCHAR(255) NOT NULL)";
    test.execute(table).await;
    inbox(test).await
}

/// A handler that books the message, however often it is called, and counts its calls.
fn booking<DB: TestDatabase>(
    inbox: &Inbox<DB>,
    calls: &Arc<AtomicUsize>,
) -> impl Handler + use<DB> {
    let calls = calls.clone();
    inbox.message_fn(move |message, _, tx: Transaction<DB>| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move { work(&tx, message.id().as_str()).await.map(drop) }
    })
}

fn delivery(number: usize) -> Context {
    Context::for_test(message("orders", "a", number))
}

/// Hands a message to a handler until it is acknowledged, as a bus does.
async fn until_acknowledged(handler: &impl Handler, context: &Context) {
    while !matches!(handler.handle(context).await, Ok(Outcome::Ack)) {}
}

async fn many_workers_handle_a_message_once<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = Arc::new(booking(&inbox, &calls));
    let contexts: Vec<_> = (0..10).map(delivery).collect();
    // Fewer workers than connections, all with the same messages at once.
    let work = |(handler, contexts): (Arc<_>, Vec<Context>)| async move {
        for context in &contexts {
            until_acknowledged(&*handler, context).await;
        }
    };
    let workers = (0..8).map(|_| tokio::spawn(work((handler.clone(), contexts.clone()))));
    let workers: Vec<_> = workers.collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let booked = "SELECT count(*), count(DISTINCT id) FROM bookings";
    assert_eq!(test.rows(booked).await, [["10", "10"]]);
    assert_eq!(
        calls.load(Ordering::Relaxed),
        10,
        "duplicates are not handed over"
    );
}

async fn what_crashed_before_the_commit_comes_again<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let worked = Arc::new(Notify::new());
    let told = worked.clone();
    let crashing = inbox.message_fn(move |message, _, tx: Transaction<DB>| {
        let told = told.clone();
        async move {
            work(&tx, message.id().as_str()).await.unwrap();
            told.notify_one();
            std::future::pending::<()>().await;
        }
    });
    let context = delivery(1);
    for _ in 0..3 {
        tokio::select! {
            _ = crashing.handle(&context) => unreachable!("it never returns"),
            () = worked.notified() => {}
        }
        assert_eq!(test.count("bookings").await, 0);
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = booking(&inbox, &calls);
    for _ in 0..3 {
        until_acknowledged(&handler, &context).await;
    }
    assert_eq!(test.count("bookings").await, 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

async fn anything_but_an_acknowledgement_rolls_back<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let context = delivery(1);
    for outcome in [
        Outcome::Retry { after: None },
        Outcome::Release,
        Outcome::dead_letter("bad"),
    ] {
        let said = outcome.clone();
        let handler = inbox.message_fn(move |message, _, tx: Transaction<DB>| {
            let said = said.clone();
            async move {
                work(&tx, message.id().as_str()).await.unwrap();
                said
            }
        });
        assert_eq!(handler.handle(&context).await.unwrap(), outcome);
    }
    let failing = inbox.message_fn(|message, _, tx: Transaction<DB>| async move {
        work(&tx, message.id().as_str()).await?;
        Err::<(), _>(HandlerError::unrecoverable("as asked"))
    });
    let error = failing.handle(&context).await.unwrap_err();
    assert!(error.is_unrecoverable());
    let panicking = inbox.message_fn(|message, _, tx: Transaction<DB>| async move {
        work(&tx, message.id().as_str()).await.unwrap();
        assert!(message.data().is_empty(), "as asked");
    });
    let of_panic = context.clone();
    let panic = tokio::spawn(async move { panicking.handle(&of_panic).await });
    assert!(panic.await.unwrap_err().is_panic());

    assert_eq!(test.count("bookings").await, 0);
    assert_eq!(test.count("streams_inbox").await, 0);
    let calls = Arc::new(AtomicUsize::new(0));
    until_acknowledged(&booking(&inbox, &calls), &context).await;
    assert_eq!(test.count("bookings").await, 1);
    assert_eq!(test.count("streams_inbox").await, 1);
}

async fn a_waiting_worker_goes_on_where_the_first_failed<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waits) = (entered.clone(), go_on.clone());
    let failing = inbox.message_fn(move |_, _, tx: Transaction<DB>| {
        let (told, waits) = (told.clone(), waits.clone());
        async move {
            work(&tx, "never").await?;
            told.notify_one();
            waits.notified().await;
            Err::<(), _>(HandlerError::new("as asked"))
        }
    });
    let context = delivery(1);
    let first = context.clone();
    let first = tokio::spawn(async move { failing.handle(&first).await });
    entered.notified().await;
    // It waits for the first, which has not committed.
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = booking(&inbox, &calls);
    let second = tokio::spawn(async move { until_acknowledged(&handler, &context).await });
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    go_on.notify_one();
    first.await.unwrap().unwrap_err();
    second.await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let booked = test.rows("SELECT id FROM bookings").await;
    assert_eq!(booked.len(), 1);
    assert_ne!(booked[0][0], "never");
}

async fn a_mark_goes_with_its_transaction<DB: TestDatabase>(test: Test<DB>) {
    let inbox = inbox(&test).await;
    let id = MessageId::new("order-17").unwrap();
    for (commit, first_time) in [(false, true), (true, true), (true, false)] {
        let mut tx = test.pool.begin().await.unwrap();
        let marked = inbox.first_time_in(&mut tx, "billing", &id).await;
        assert_eq!(marked.unwrap(), first_time);
        let twice = inbox.first_time_in(&mut tx, "billing", &id).await;
        assert!(!twice.unwrap());
        let other = inbox.first_time_in(&mut tx, "mail", &id).await;
        assert_eq!(other.unwrap(), first_time);
        if commit {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
    }
    // After its retention it is forgotten, cleaned up or not.
    test.execute("UPDATE streams_inbox SET expires = 1").await;
    let mut connection = test.pool.acquire().await.unwrap();
    let marked = inbox.first_time_in(&mut connection, "billing", &id).await;
    assert!(marked.unwrap());
    let again = inbox.first_time_in(&mut connection, "billing", &id).await;
    assert!(!again.unwrap());
}

#[derive(serde::Serialize, serde::Deserialize, Event)]
#[event(stream = "order.made")]
struct OrderMade {
    id: String,
}

#[derive(serde::Serialize, serde::Deserialize, Event)]
#[event(stream = "order.booked")]
struct OrderBooked {
    id: String,
}

/// From message to message exactly once: inbox, work and outbox in one transaction.
async fn what_is_published_in_it_is_part_of_it<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    outbox.migrate().await.unwrap();
    let publisher = Publisher::builder(Arc::new(NoopWriter::new())).build();
    publisher.registry().register::<OrderMade>().unwrap();
    publisher.registry().register::<OrderBooked>().unwrap();
    let fails = Arc::new(AtomicUsize::new(2));

    let (of_handler, to) = (publisher.clone(), outbox.clone());
    let handler = inbox.event_fn(move |order: OrderMade, _, tx: Transaction<DB>| {
        let (publisher, fails) = (of_handler.on(tx.writer(&to)), fails.clone());
        async move {
            work(&tx, &order.id).await?;
            publisher.publish(&OrderBooked { id: order.id }).await?;
            if fails.load(Ordering::Relaxed) > 0 {
                fails.fetch_sub(1, Ordering::Relaxed);
                return Err(HandlerError::new("as asked"));
            }
            Ok(())
        }
    });
    let message = publisher
        .messages(&[OrderMade { id: "17".into() }])
        .unwrap();
    let context = Context::for_test(message[0].clone());
    for _ in 0..3 {
        until_acknowledged(&handler, &context).await;
    }
    assert_eq!(test.count("bookings").await, 1);
    assert_eq!(outbox.pending().await.unwrap(), 1);
}

async fn a_swallowed_error_is_no_acknowledgement<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let swallowing = inbox.message_fn(|message, _, tx: Transaction<DB>| async move {
        work(&tx, message.id().as_str()).await.unwrap();
        let mut connection = tx.connection().await.unwrap();
        DB::run_on(&mut connection, "INSERT INTO nowhere VALUES (1)")
            .await
            .unwrap_err();
    });
    let result = swallowing.handle(&delivery(1)).await;
    // Either all of it is there, or the message comes again.
    let booked = test.count("bookings").await;
    match result {
        Ok(outcome) => assert_eq!((outcome, booked), (Outcome::Ack, 1)),
        Err(error) => assert_eq!((error.kind(), booked), (ErrorKind::Conflict, 0)),
    }
}

async fn an_outage_postpones<DB: TestDatabase>(test: Test<DB>) {
    let inbox = bookings(&test).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = booking(&inbox, &calls);
    // Not even a table: a mistake of who deploys, and none of the message's.
    test.execute("DROP TABLE streams_inbox").await;
    let outcome = handler.handle(&delivery(1)).await.unwrap();
    assert!(matches!(outcome, Outcome::Postpone { .. }), "{outcome:?}");

    let pool = DB::unreachable().await;
    let inbox = Inbox::builder(pool).build().unwrap();
    let handler = booking(&inbox, &calls);
    let outcome = handler.handle(&delivery(1)).await.unwrap();
    assert!(matches!(outcome, Outcome::Postpone { .. }), "{outcome:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}
