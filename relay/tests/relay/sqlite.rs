//! SQLite to standard output, without a server.

use rustix::process::Signal;
use serde_json::Value;
use sqlx::sqlite::SqlitePool;
use streams_core::Message;
use streams_sql::{Outbox, Sqlite};

use crate::support::{Folder, Running, duplicates, finish, get, message, metric, program, until};

async fn outbox(url: &str) -> Outbox<Sqlite> {
    let pool = SqlitePool::connect(url).await.unwrap();
    let outbox = Outbox::builder(pool).build().unwrap();
    outbox.migrate().await.unwrap();
    outbox
}

/// A row for each message.
pub(crate) async fn write(url: &str, messages: &[Message]) {
    let pool = SqlitePool::connect(url).await.unwrap();
    let outbox = Outbox::builder(pool.clone()).build().unwrap();
    outbox.migrate().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    for message in messages {
        let one = std::slice::from_ref(message);
        outbox.write_in(&mut tx, one).await.unwrap();
    }
    tx.commit().await.unwrap();
    pool.close().await;
}

fn id(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    line["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn committed_messages_become_lines_and_leave_the_table() {
    let folder = Folder::new();
    let url = folder.url();
    let settings = [("source-url", &*url), ("destination-url", "stdout:")];
    for flag in ["--migrate", "--migrate", "--check"] {
        let mut chore = program(&settings);
        chore.arg(flag);
        let (code, output, errors) = finish(chore);
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(output.lines().count(), 1, "{output}");
    }

    let messages: Vec<_> = (0..3).map(|n| message("payment.made", "17", n)).collect();
    write(&url, &messages).await;
    let mut relay = Running::start(program(&settings));
    for n in 0..3 {
        let line: Value = serde_json::from_str(&relay.line()).unwrap();
        assert_eq!(line["id"], format!("17-{n}"));
        assert_eq!(line["stream"], "payment.made");
        assert_eq!(line["key"], "17");
        assert_eq!(line["data"], format!("{{\"n\":{n}}}"));
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    assert_eq!(relay.rest(), "");
    let log = relay.log();
    assert!(
        log.contains("the relay has stopped messages=3 rows=3"),
        "{log}"
    );
    assert_eq!(outbox(&url).await.pending().await.unwrap(), 0);
}

/// It starts before its database is there.
#[tokio::test]
async fn health_and_metrics_tell_how_it_is() {
    let folder = Folder::new();
    let file = folder.path().join("later.db");
    let url = format!("sqlite:{}", file.display());
    let settings = [
        ("source-url", &*url),
        ("destination-url", "chanbuf:?unheld=discard"),
        ("log-format", "json"),
    ];
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    assert_eq!(get(&address, "/healthz"), (200, "alive\n".to_owned()));
    let (code, reason) = get(&address, "/readyz");
    assert_eq!(code, 503, "{reason}");
    assert_eq!(get(&address, "/other").0, 404);

    let messages = [message("a", "k", 1), message("a", "k", 2)];
    write(&folder.url(), &messages).await;
    std::fs::rename(folder.path().join("app.db"), file).unwrap();
    until(|| get(&address, "/readyz") == (200, "ready\n".to_owned()));
    until(|| metric(&address, "streams_relay_messages_total") == Some(2.0));
    assert_eq!(metric(&address, "streams_relay_active"), Some(1.0));
    assert_eq!(metric(&address, "streams_relay_set_aside_total"), Some(0.0));

    // Another one stands by, and is as ready.
    let mut other = Running::start(program(&settings));
    let standby = other.address();
    until(|| get(&standby, "/readyz").0 == 200);
    until(|| metric(&standby, "streams_relay_active") == Some(0.0));
    // It takes over.
    relay.signal(Signal::INT);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    until(|| metric(&standby, "streams_relay_active") == Some(1.0));

    for line in relay.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
}

/// Nobody reads in memory, so it takes nothing.
#[tokio::test]
async fn a_destination_that_is_down_makes_it_unready_and_the_rows_stay() {
    let folder = Folder::new();
    let url = folder.url();
    write(&url, &[message("a", "k", 1), message("a", "k", 2)]).await;
    let settings = [("source-url", &*url), ("destination-url", "chanbuf:")];
    let mut relay = Running::start(program(&settings));
    let address = relay.address();
    relay.logged("the destination takes nothing");
    let (code, reason) = get(&address, "/readyz");
    assert_eq!(code, 503);
    assert!(
        reason.starts_with("the destination takes nothing: "),
        "{reason}"
    );
    assert_eq!(get(&address, "/healthz").0, 200);
    assert_eq!(metric(&address, "streams_relay_messages_total"), Some(0.0));
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
    assert_eq!(outbox(&url).await.pending().await.unwrap(), 2);
}

#[tokio::test]
async fn a_table_that_is_missing_ends_it_and_says_what_to_do() {
    let folder = Folder::new();
    let url = folder.url();
    let settings = [
        ("source-url", &*url),
        ("destination-url", "stdout:"),
        ("http-listen", "off"),
    ];
    for flag in ["--check", "--log-filter=off", "--log-filter=error"] {
        let mut relay = program(&settings);
        relay.arg(flag);
        let (code, output, errors) = finish(relay);
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        assert!(errors.contains("migrate"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = [
        ("source-url", &*folder.url()),
        ("destination-url", "stdout:"),
        ("http-listen", &address),
    ];
    let (code, _, errors) = finish(program(&settings));
    assert_eq!(code, Some(1));
    assert!(
        errors.contains(&address) && errors.contains("or off"),
        "{errors}"
    );
}

const BACKLOG: usize = 3000;
const ROWS: usize = 20;

/// Starts it in the middle of a backlog, and stops it after some lines; what it has printed.
fn some(url: &str, stop: Signal, code: Option<i32>) -> Vec<String> {
    let rows = ROWS.to_string();
    let mut relay = Running::start(program(&[
        ("source-url", url),
        ("destination-url", "stdout:"),
        ("relay-rows", &rows),
        ("relay-lease", "1s"),
    ]));
    let mut ids: Vec<_> = (0..300).map(|_| id(&relay.line())).collect();
    relay.signal(stop);
    let rest = relay.rest();
    let complete = rest
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    ids.extend(complete.map(id));
    assert_eq!(relay.wait().code(), code, "{}", relay.log());
    ids
}

async fn backlog(url: &str) -> Vec<Message> {
    let messages: Vec<_> = (0..BACKLOG)
        .map(|n| message("payment.made", &format!("k{}", n % 7), n))
        .collect();
    write(url, &messages).await;
    messages
}

#[tokio::test]
async fn sigterm_in_a_backlog_loses_and_repeats_nothing() {
    let folder = Folder::new();
    let url = folder.url();
    let messages = backlog(&url).await;
    let mut printed = some(&url, Signal::TERM, Some(0));
    assert!(printed.len() < BACKLOG, "it stopped before the end");
    let pending = outbox(&url).await.pending().await.unwrap();
    assert_eq!(printed.len() + usize::try_from(pending).unwrap(), BACKLOG);

    let mut relay = Running::start(program(&[
        ("source-url", &*url),
        ("destination-url", "stdout:"),
    ]));
    while printed.len() < BACKLOG {
        printed.push(id(&relay.line()));
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.rest(), "");
    assert_eq!(duplicates(&printed, &messages), 0);
}

#[tokio::test]
async fn kill_in_a_backlog_repeats_only_what_was_in_flight() {
    let folder = Folder::new();
    let url = folder.url();
    let messages = backlog(&url).await;
    let mut printed = some(&url, Signal::KILL, None);
    let pending = outbox(&url).await.pending().await.unwrap();
    let last = messages.last().unwrap().id().as_str();

    let mut relay = Running::start(program(&[
        ("source-url", &*url),
        ("destination-url", "stdout:"),
    ]));
    for _ in 0..pending {
        printed.push(id(&relay.line()));
    }
    assert_eq!(printed.last().map(String::as_str), Some(last));
    let again = duplicates(&printed, &messages);
    assert!(again <= 2 * ROWS, "{again} messages came again");
}

/// Nobody reads the output, so a write hangs.
#[tokio::test]
async fn a_second_signal_or_the_deadline_ends_it_at_once() {
    for (deadline, again) in [("1h", true), ("100ms", false)] {
        let folder = Folder::new();
        let url = folder.url();
        let large = |n| {
            let large = "x".repeat(4096);
            message("a", "k", n)
                .to_builder()
                .data(large)
                .build()
                .unwrap()
        };
        let messages: Vec<_> = (0..500).map(large).collect();
        write(&url, &messages).await;
        let mut relay = Running::start(program(&[
            ("source-url", &*url),
            ("destination-url", "stdout:"),
            ("stop-deadline", deadline),
        ]));
        relay.line(); // it writes 2 MB, and there it stays
        relay.signal(Signal::TERM);
        relay.logged("the relay stops");
        if again {
            relay.signal(Signal::TERM);
        }
        assert_eq!(relay.wait().code(), Some(3), "{}", relay.log());
        assert!(relay.log().contains("may be written again"));
        assert_eq!(outbox(&url).await.pending().await.unwrap(), 500);
    }
}
