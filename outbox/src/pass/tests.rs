use std::sync::Mutex;

use streams_core::{Capabilities, async_trait};

use super::*;
use crate::decode;

/// Fails the messages whose data is named, with an error of this kind; keeps the others.
struct Destination {
    fails: &'static [&'static str],
    kind: ErrorKind,
    written: Mutex<Vec<String>>,
    capabilities: Capabilities,
}

fn destination(fails: &'static [&'static str], kind: ErrorKind) -> Destination {
    Destination {
        fails,
        kind,
        written: Mutex::default(),
        capabilities: Capabilities::none("test"),
    }
}

impl Destination {
    fn written(&self) -> Vec<String> {
        std::mem::take(&mut self.written.lock().unwrap())
    }
}

#[async_trait]
impl Writer for Destination {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if self.fails.contains(&"hangs") {
            std::future::pending::<()>().await;
        }
        let mut failures = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            let data = std::str::from_utf8(message.data()).unwrap();
            if self.fails.contains(&data) || self.fails.contains(&"all") {
                failures.push((index, Error::new(self.kind, "é".repeat(300))));
            } else {
                self.written.lock().unwrap().push(data.to_owned());
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

const TERMS: Terms = Terms {
    driver: "test",
    advice: "raise `lease`",
    attempts: 3,
    backoff: Backoff::constant(Duration::from_secs(1)),
    limit: Duration::from_secs(5),
    proven: false,
};

/// A row of messages `key=data`; without a `=` there is no key.
fn row(id: &str, attempts: u32, messages: &[&str]) -> Row {
    let message = |text: &&str| {
        let (key, data) = match text.split_once('=') {
            Some((key, data)) => (Some(key.into()), data),
            None => (None, *text),
        };
        let message = Message::builder("a").maybe_key(key);
        message.data(data.to_owned()).build().unwrap()
    };
    let messages: Vec<_> = messages.iter().map(message).collect();
    Row::new("test", id.to_owned(), attempts, encode(&messages).into())
}

/// What became of each row, in short.
fn verdicts(pass: &Pass) -> Vec<String> {
    let rest = |rest: &Option<Rest>| {
        rest.as_ref()
            .map_or(String::new(), |r| format!(" rest {}", r.messages))
    };
    let verdict = |(id, verdict): &(String, Verdict)| match verdict {
        Verdict::Done => format!("{id} done"),
        Verdict::Deferred {
            attempts,
            error: Some(_),
            rest: r,
            delay,
            ..
        } => {
            assert_eq!(delay.as_secs(), 1);
            format!("{id} failed {attempts}{}", rest(r))
        }
        Verdict::Deferred {
            attempts,
            error: None,
            rest: r,
            delay,
            ..
        } => {
            assert!(delay.is_zero());
            format!("{id} waits {attempts}{}", rest(r))
        }
        Verdict::SetAside {
            attempts, rest: r, ..
        } => {
            format!("{id} aside {attempts}{}", rest(r))
        }
    };
    pass.rows.iter().map(verdict).collect()
}

#[tokio::test]
async fn all_is_written_in_order() {
    let to = destination(&[], ErrorKind::Other);
    let rows = vec![row("1", 0, &["k=a", "j=b"]), row("2", 0, &["c"])];
    let pass = pass(rows, &to, &Deferred::default(), TERMS).await;
    assert_eq!(verdicts(&pass), ["1 done", "2 done"]);
    assert_eq!(to.written(), ["a", "b", "c"]);
    assert_eq!((pass.written, pass.failures), (3, 0));
    assert!(pass.down.is_none());
}

#[tokio::test(start_paused = true)]
async fn when_the_destination_is_down_rows_stay_as_they_are() {
    for fails in ["all", "hangs"] {
        let to = destination(
            if fails == "all" { &["all"] } else { &["hangs"] },
            ErrorKind::Unavailable,
        );
        let corrupt = || Row::new("test", "3".to_owned(), 0, Bytes::from_static(b"nonsense"));
        let rows = vec![row("1", 2, &["k=a"]), row("2", 0, &["j=b"]), corrupt()];
        let down = pass(rows, &to, &Deferred::default(), TERMS).await;
        assert_eq!(verdicts(&down), ["3 aside 1"]);
        assert!(down.down.unwrap().is_retryable());
        assert_eq!((down.written, down.failures), (0, 2));
    }
}

#[tokio::test]
async fn suspects_alone_are_at_fault_themselves() {
    let to = destination(&["all"], ErrorKind::Unavailable);
    let rows = vec![row("1", 2, &["k=a"]), row("2", 0, &["j=b"]).again()];
    let suspects = pass(rows, &to, &Deferred::default(), TERMS).await;
    assert_eq!(verdicts(&suspects), ["1 aside 3", "2 failed 1"]);

    // And so is any row when it is known that the destination takes messages.
    let proven = Terms {
        proven: true,
        ..TERMS
    };
    let rows = vec![row("1", 0, &["k=a"]), row("2", 0, &["j=b"])];
    let pass = pass(rows, &to, &Deferred::default(), proven).await;
    assert_eq!(verdicts(&pass), ["1 failed 1", "2 failed 1"]);
}

#[tokio::test]
async fn errors_that_stay_belong_to_the_rows() {
    let to = destination(&["all"], ErrorKind::TooLarge);
    let pass = pass(
        vec![row("1", 0, &["k=a"])],
        &to,
        &Deferred::default(),
        TERMS,
    )
    .await;
    assert_eq!(verdicts(&pass), ["1 failed 1"]);
}

#[tokio::test]
async fn a_closed_writer_is_no_fault_of_any_row() {
    let to = destination(&["all"], ErrorKind::Closed);
    let pass = pass(
        vec![row("1", 2, &["k=a"])],
        &to,
        &Deferred::default(),
        TERMS,
    )
    .await;
    assert_eq!(pass.down.unwrap().kind(), ErrorKind::Closed);
    assert!(pass.rows.is_empty());
}

#[tokio::test]
async fn only_the_rest_of_a_row_is_left() {
    let to = destination(&["b", "c"], ErrorKind::Other);
    let rows = vec![
        row("1", 0, &["k=a", "j=b", "k=d", "j=c"]),
        row("2", 2, &["c", "x"]),
    ];
    let deferred = Deferred::default();
    let pass = pass(rows, &to, &deferred, TERMS).await;
    assert_eq!(verdicts(&pass), ["1 failed 1 rest 2", "2 aside 3 rest 1"]);
    assert_eq!(to.written(), ["a", "d", "x"]);
    let Verdict::Deferred {
        rest: Some(rest),
        lanes,
        error: Some(error),
        ..
    } = &pass.rows[0].1
    else {
        panic!("{:?}", pass.rows);
    };
    let left = decode("test", "1", &rest.raw_data).unwrap();
    assert_eq!(
        left.iter().map(|m| &m.data()[..]).collect::<Vec<_>>(),
        [b"b", b"c"]
    );
    assert_eq!(*lanes, deferred.lanes(&left[..1]));
    assert_eq!(error.chars().count(), 255);
    assert!(error.starts_with("Other: é"), "{error}");
}

#[tokio::test]
async fn what_failed_behind_another_is_not_counted() {
    let to = destination(&["a", "b", "c"], ErrorKind::Other);
    let rows = vec![
        row("1", 0, &["k=a"]),
        row("2", 0, &["k=b", "k=c"]),
        row("3", 0, &["k=b", "j=c"]),
        row("4", 0, &["x"]),
    ];
    let pass = pass(rows, &to, &Deferred::default(), TERMS).await;
    assert_eq!(
        verdicts(&pass),
        ["1 failed 1", "2 waits 0", "3 failed 1", "4 done"]
    );
}

#[tokio::test]
async fn nothing_overtakes_a_row_that_may_fail() {
    let to = destination(&[], ErrorKind::Other);
    let rows = vec![
        row("1", 1, &["k=a"]),
        row("2", 0, &["k=b", "j=c"]),
        row("3", 0, &["j=d"]),
        row("4", 0, &["i=e"]),
        row("5", 0, &["i=f"]),
    ];
    let pass = pass(rows, &to, &Deferred::default(), TERMS).await;
    assert_eq!(
        verdicts(&pass),
        ["1 done", "2 waits 0", "3 waits 0", "4 done", "5 done"]
    );
    assert_eq!(to.written(), ["a", "e", "f"]);
}

#[tokio::test]
async fn rows_wait_behind_deferred_ones() {
    let to = destination(&[], ErrorKind::Other);
    let mut deferred = Deferred::default();
    let first = row("0", 1, &["k=a"]);
    let lanes = deferred.lanes(first.messages().as_ref().unwrap());
    deferred.put("0", Instant::now(), true, lanes);
    let rows = vec![first.again(), row("1", 0, &["k=b"]), row("2", 0, &["j=c"])];
    let pass = pass(rows, &to, &deferred, TERMS).await;
    assert_eq!(verdicts(&pass), ["0 done", "1 waits 0", "2 done"]);
    assert_eq!(to.written(), ["a", "c"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_at_once() {
    let to = destination(&[], ErrorKind::Other);
    let rows = vec![
        Row::new("test", "1".to_owned(), 0, Bytes::from_static(b"nonsense")),
        Row::new("test", "2".to_owned(), 0, Bytes::new()),
        row("3", 0, &["c"]),
    ];
    let pass = pass(rows, &to, &Deferred::default(), TERMS).await;
    assert_eq!(verdicts(&pass), ["1 aside 1", "2 aside 1", "3 done"]);
}

#[test]
fn errors_fit_their_column() {
    let error = text(&Error::new(ErrorKind::Other, "a\0b"));
    assert_eq!(error, "Other: a\u{fffd}b");
}
