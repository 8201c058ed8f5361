//! MariaDB to standard output, on a real server.

use rustix::process::Signal;
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;
use streams_core::ksuid;
use streams_services::Service;
use streams_sql::Outbox;

use crate::support::{Running, SECRET, finish, message, program};

#[tokio::test]
async fn committed_messages_become_lines() {
    let address = Service::MariaDb.address().unwrap();
    let server = MySqlPool::connect(&address).await.unwrap();
    let name = format!("relay_{}", ksuid().unwrap());
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&server).await.unwrap();
    let (start, _) = address.rsplit_once('/').unwrap();
    let url = format!("{start}/{name}");

    let settings = [("source-url", &*url), ("destination-url", "stdout:")];
    let mut migrate = program(&settings);
    migrate.args(["--migrate", "--check"]);
    let (code, _, errors) = finish(migrate);
    assert_eq!(code, Some(0), "{errors}");
    let pool = MySqlPool::connect(&url).await.unwrap();
    let outbox = Outbox::builder(pool.clone()).build().unwrap();
    for commit in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        let key = if commit { "good" } else { "bad" };
        let messages: Vec<_> = (0..3).map(|n| message("payment.made", key, n)).collect();
        outbox.write_in(&mut tx, &messages).await.unwrap();
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    let mut relay = Running::start(program(&settings));
    for n in 0..3 {
        let line = relay.line();
        assert!(line.contains(&format!("\"id\":\"good-{n}\"")), "{line}");
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.rest(), "");
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    pool.close().await;
    let drop = AssertSqlSafe(format!("DROP DATABASE {name}"));
    sqlx::query(drop).execute(&server).await.unwrap();
}

/// With everything that is logged.
#[test]
fn a_wrong_password_is_not_shown() {
    let address = Service::MariaDb.address().unwrap();
    let (_, host) = address.rsplit_once('@').unwrap();
    let source = format!("mysql://root:{SECRET}@{host}");
    for flag in ["--check", "--log-format=json"] {
        let mut relay = program(&[
            ("source-url", &source),
            ("destination-url", "stdout:"),
            ("log-filter", "trace"),
        ]);
        relay.arg(flag);
        let (code, output, errors) = finish(relay);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains("Access denied"), "{errors}");
        assert!(!errors.contains(SECRET), "{errors}");
    }
}
