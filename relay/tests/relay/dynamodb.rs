//! DynamoDB to standard output, by queries and by streams.

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::Value;
use streams_core::Message;
use streams_dynamodb::{DynamoDb, Outbox};
use streams_services::Service;

use crate::support::{Running, SECRET, duplicates, finish, get, message, program, until};

/// A table of a test's own, and the settings that name it.
struct Source {
    url: String,
    table: String,
    leases: String,
    outbox: Outbox,
}

impl Source {
    async fn new() -> Self {
        let endpoint = tokio::task::spawn_blocking(|| Service::DynamoDb.address());
        let endpoint = endpoint.await.unwrap().unwrap();
        let escaped = endpoint.replace(':', "%3A").replace('/', "%2F");
        let url = format!("dynamodb://id:{SECRET}@?region=eu-west-1&endpoint={escaped}");
        let id = std::process::id();
        let table = format!("relay-{id}-{:x}", std::ptr::from_ref(&url).addr());
        let leases = format!("{table}-leases");
        let outbox = Outbox::builder(DynamoDb::from_url(&url).await.unwrap());
        let outbox = outbox.table(&table).leases_table(&leases).build().unwrap();
        Self {
            url,
            table,
            leases,
            outbox,
        }
    }

    fn settings<'a>(&'a self, mode: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![
            ("source-url", &self.url),
            ("source-table", &self.table),
            ("source-mode", mode),
            ("dynamodb-leases-table", &self.leases),
            ("destination-url", "stdout:"),
            ("relay-lease", "3s"),
        ]
    }

    async fn write(&self, messages: &[Message]) {
        for some in messages.chunks(20) {
            let mut tx = self.outbox.begin();
            tx.writer().write(some).await.unwrap();
            tx.commit().await.unwrap();
        }
    }

    async fn end(self) {
        self.outbox.delete_tables().await.unwrap();
    }
}

fn id(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["id"].as_str().unwrap().to_owned()
}

async fn committed_messages_become_lines(mode: &str) {
    let source = Source::new().await;
    let settings = source.settings(mode);
    for flag in ["--migrate", "--migrate", "--check"] {
        let mut chore = program(&settings);
        chore.arg(flag);
        let (code, output, errors) = finish(chore);
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(output.lines().count(), 1, "{output}");
    }
    // Of one key, so that all of them are in order.
    let messages: Vec<_> = (0..100).map(|n| message("payment.made", "17", n)).collect();
    source.write(&messages[..60]).await;
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    let mut printed: Vec<_> = (0..60).map(|_| id(&relay.line())).collect();
    until(|| get(&address, "/readyz").0 == 200);
    let written = format!(
        "streams_relay_messages_total{{table=\"{}\"}} 60\n",
        source.table
    );
    until(|| get(&address, "/metrics").1.contains(&written));
    relay.signal(Signal::TERM);
    printed.extend(relay.rest().lines().map(id));
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    let log = relay.log();
    assert!(log.contains("the relay has stopped messages=60"), "{log}");
    assert!(!log.contains(SECRET), "{log}");

    // One that is killed is followed by another, which takes over.
    let mut killed = Running::start(program(&settings));
    source.write(&messages[60..]).await;
    let first = killed.line();
    killed.signal(Signal::KILL);
    printed.push(id(&first));
    let rest = killed.rest();
    let whole = rest
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    printed.extend(whole.map(id));
    killed.wait();
    let mut relay = Running::start(program(&settings));
    let last = messages[99].id().as_str();
    while source.outbox.pending().await.unwrap() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    relay.signal(Signal::TERM);
    printed.extend(relay.rest().lines().map(id));
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    assert!(printed.iter().any(|id| id == last));
    let again = duplicates(&printed, &messages);
    assert!(again <= 40, "{again} messages came again");
    assert_eq!(printed.iter().collect::<HashSet<_>>().len(), 100);
    source.end().await;
}

#[tokio::test]
async fn committed_messages_become_lines_by_queries() {
    committed_messages_become_lines("poll").await;
}

#[tokio::test]
async fn committed_messages_become_lines_by_streams() {
    committed_messages_become_lines("streams").await;
}

#[tokio::test]
async fn a_table_that_is_missing_ends_it_and_says_what_to_do() {
    let source = Source::new().await;
    for mode in ["poll", "streams"] {
        let mut relay = program(&source.settings(mode));
        relay.arg("--log-filter=error");
        let (code, output, errors) = finish(relay);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(
            errors.contains("--migrate") && !errors.contains(SECRET),
            "{errors}"
        );
    }
}

/// The settings may all come from the environment.
#[tokio::test]
async fn variables_set_what_flags_set() {
    let source = Source::new().await;
    let mut chore = program(&[]);
    for (name, value) in source.settings("streams") {
        let name = name.replace('-', "_").to_uppercase();
        chore.env(format!("STREAMS_RELAY_{name}"), value);
    }
    chore
        .env("STREAMS_RELAY_DYNAMODB_PARTITIONS", "3")
        .arg("--migrate");
    let (code, _, errors) = finish(chore);
    assert_eq!(code, Some(0), "{errors}");
    source.outbox.check().await.unwrap();
    source.end().await;
}
