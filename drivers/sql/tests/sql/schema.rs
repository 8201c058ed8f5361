//! Tables: made, upgraded, checked, by code and by hand.

use sqlx::postgres::PgListener;
use streams_core::ErrorKind;
use streams_sql::{Inbox, Outbox};

use crate::support::{Test, TestDatabase, message, run};

on_each_database! {
    many_migrate_at_once,
    a_newer_version_is_left_alone,
    an_older_version_is_brought_up,
    a_table_of_the_go_library_is_upgraded,
    an_early_table_of_the_go_library_is_upgraded,
    the_files_can_be_run_by_hand,
    tables_have_the_names_that_were_set,
    hostile_names_are_refused,
}

async fn many_migrate_at_once<DB: TestDatabase>(test: Test<DB>) {
    // With a table to upgrade, which is more to do than to make one.
    go_table(&test, "insert_time TIMESTAMP DEFAULT CURRENT_TIMESTAMP").await;
    let migrate = |url: String| async move {
        // A pool each, as processes have.
        let pool = DB::open(&url).await;
        Outbox::builder(pool.clone()).build()?.migrate().await?;
        Inbox::builder(pool.clone()).build()?.migrate().await?;
        pool.close().await;
        Ok::<_, streams_core::Error>(())
    };
    let all = (0..8).map(|_| tokio::spawn(migrate(test.url.clone())));
    let all: Vec<_> = all.collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    outbox.check().await.unwrap();
    outbox.migrate().await.unwrap();
    let versions = test.rows("SELECT name, version FROM streams_schema ORDER BY name");
    assert_eq!(
        versions.await,
        [["streams_egress", "1"], ["streams_inbox", "1"]]
    );
}

async fn a_newer_version_is_left_alone<DB: TestDatabase>(test: Test<DB>) {
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    outbox.migrate().await.unwrap();
    test.execute("UPDATE streams_schema SET version = 1000")
        .await;
    for error in [outbox.check().await, outbox.migrate().await] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("newer"), "{error}");
    }
    let versions = test.rows("SELECT version FROM streams_schema").await;
    assert_eq!(versions, [["1000"]]);
}

async fn an_older_version_is_brought_up<DB: TestDatabase>(test: Test<DB>) {
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    let error = outbox.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    outbox.migrate().await.unwrap();
    test.execute("UPDATE streams_schema SET version = 0").await;
    let error = outbox.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("`migrate`"), "{error}");
    outbox.migrate().await.unwrap();
    outbox.check().await.unwrap();
}

/// As the Go library makes it today.
async fn a_table_of_the_go_library_is_upgraded<DB: TestDatabase>(test: Test<DB>) {
    let more = "insert_time TIMESTAMP DEFAULT CURRENT_TIMESTAMP";
    upgrade(&test, more).await;
}

/// As it made it before, and its README still says.
async fn an_early_table_of_the_go_library_is_upgraded<DB: TestDatabase>(test: Test<DB>) {
    let more = "in_flight BOOLEAN DEFAULT FALSE, write_retries INTEGER DEFAULT 0, \
                last_write_error VARCHAR(255)";
    upgrade(&test, more).await;
}

async fn go_table<DB: TestDatabase>(test: &Test<DB>, more: &str) {
    let make = format!(
        "CREATE TABLE streams_egress (batch_id VARCHAR(27) PRIMARY KEY, \
         message_count INTEGER DEFAULT 0, raw_data {} NOT NULL, {more})",
        DB::BYTES
    );
    test.execute(&make).await;
}

async fn upgrade<DB: TestDatabase>(test: &Test<DB>, more: &str) {
    go_table(test, more).await;
    let go_writes = |id: u32| {
        format!(
            "INSERT INTO streams_egress (batch_id, message_count, raw_data) \
             VALUES ('2T9Xr6fVJ3yW8vGmJ0bq1eK4{id:03}', 1, {})",
            DB::literal(b"\x0a\x06\x12\x01s\x32\x01x")
        )
    };
    for id in [1, 2] {
        test.execute(&go_writes(id)).await;
    }

    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    let error = outbox.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    outbox.migrate().await.unwrap();
    outbox.check().await.unwrap();

    // Its rows wait to be relayed, in their order, and it goes on writing.
    test.execute(&go_writes(3)).await;
    assert_eq!(outbox.pending().await.unwrap(), 3);
    let mut connection = test.pool.acquire().await.unwrap();
    outbox
        .write_in(&mut connection, &[message("orders", "a", 1)])
        .await
        .unwrap();
    drop(connection);
    let order = if DB::NAME == "SQLite" {
        "rowid"
    } else {
        "sequence"
    };
    let sql = format!("SELECT batch_id FROM streams_egress WHERE status = 0 ORDER BY {order}");
    let ids = test.rows(&sql).await;
    assert_eq!(ids.len(), 4);
    for (place, ids) in ids[..3].iter().enumerate() {
        assert!(ids[0].ends_with(&format!("00{}", place + 1)), "{ids:?}");
    }
    outbox.migrate().await.unwrap();
    assert_eq!(outbox.pending().await.unwrap(), 4);
}

async fn the_files_can_be_run_by_hand<DB: TestDatabase>(test: Test<DB>) {
    let outbox = Outbox::builder(test.pool.clone()).build().unwrap();
    let inbox = Inbox::builder(test.pool.clone()).build().unwrap();
    for _ in 0..2 {
        for file in DB::FILES {
            let mut connection = test.pool.acquire().await.unwrap();
            DB::script_on(&mut connection, file).await.unwrap();
        }
        outbox.check().await.unwrap();
        inbox.check().await.unwrap();
    }
    outbox.migrate().await.unwrap();
    assert_eq!(outbox.pending().await.unwrap(), 0);
}

async fn tables_have_the_names_that_were_set<DB: TestDatabase>(test: Test<DB>) {
    let mut names = vec!["my_events".to_owned(), "Select".to_owned()];
    if DB::NAME != "SQLite" {
        let schema = format!("other_{:08x}", fastrand::u32(..));
        test.execute(&format!("CREATE SCHEMA {schema}")).await;
        names.push(format!("{schema}.streams_egress"));
        names.push(format!("{schema}.my_events"));
    }
    for name in &names {
        let outbox = Outbox::builder(test.pool.clone())
            .table(name)
            .build()
            .unwrap();
        outbox.migrate().await.unwrap();
        outbox.check().await.unwrap();
        let mut connection = test.pool.acquire().await.unwrap();
        outbox
            .write_in(&mut connection, &[message("orders", "a", 1)])
            .await
            .unwrap();
        assert_eq!(outbox.pending().await.unwrap(), 1, "{name}");
    }
    if let Some((schema, _)) = names[names.len() - 1].split_once('.') {
        assert_eq!(test.count(&format!("{schema}.streams_schema")).await, 2);
        if DB::NAME == "MySQL" {
            test.execute(&format!("DROP SCHEMA {schema}")).await;
        }
    }
    assert_eq!(test.count("streams_schema").await, 2);
}

async fn hostile_names_are_refused<DB: TestDatabase>(test: Test<DB>) {
    for name in ["", "a b", "a\"; DROP TABLE users; --", "a`b", "a.b.c", "1a"] {
        let outbox = Outbox::builder(test.pool.clone()).table(name).build();
        assert_eq!(
            outbox.unwrap_err().kind(),
            ErrorKind::InvalidConfig,
            "{name}"
        );
        let inbox = Inbox::builder(test.pool.clone()).table(name).build();
        assert_eq!(
            inbox.unwrap_err().kind(),
            ErrorKind::InvalidConfig,
            "{name}"
        );
    }
    let of_schema = Outbox::builder(test.pool.clone())
        .table("events.mine")
        .build();
    assert_eq!(of_schema.is_err(), DB::NAME == "SQLite");
    for bytes in [0, usize::MAX] {
        let outbox = Outbox::builder(test.pool.clone())
            .largest_row(bytes)
            .build();
        assert_eq!(outbox.unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}

/// Rows that the Go library writes wake the relay too.
#[tokio::test]
async fn postgres_tells_of_rows_by_whomever() {
    run::<sqlx::Postgres, _>(|test| async move {
        let outbox = Outbox::builder(test.pool.clone()).table("my_events");
        outbox.build().unwrap().migrate().await.unwrap();
        let mut listener = PgListener::connect(&test.url).await.unwrap();
        listener.listen("my_events").await.unwrap();
        test.execute(
            "INSERT INTO my_events (batch_id, message_count, raw_data) VALUES ('1', 0, '')",
        )
        .await;
        let told = listener.recv().await.unwrap();
        assert_eq!(told.channel(), "my_events");
    })
    .await;
}
