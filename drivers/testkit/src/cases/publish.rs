//! What is written arrives, as it was written.

use std::sync::Arc;

use futures_util::future::join_all;
use streams_core::{Driver, ErrorKind, Headers, Key, Message, StreamName};
use tokio::time::timeout;

use crate::failure::{Checked, ensure, fail};
use crate::kit::Kit;
use crate::ledger::{Budget, Ledger};

/// Larger limits are not tried out, for want of memory.
const LARGEST: usize = 64 << 20;

pub(crate) async fn publish_subscribe(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(100), 16)?;
    let ledger = Ledger::of(&messages);
    // Not the fast path on purpose: `write` must do by itself.
    let writer = driver.writer();
    match timeout(kit.patience(), writer.write(&messages)).await {
        Ok(written) => written?,
        Err(_) => fail!(
            "one write of {} messages took longer than {:?}",
            messages.len(),
            kit.patience()
        ),
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact())
}

pub(crate) async fn publish_one_by_one(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let messages = kit.messages(&target.stream, kit.count(100), 16)?;
    let ledger = Ledger::of(&messages);
    let writer = driver.writer();
    for message in &messages {
        kit.write_once(&*writer, std::slice::from_ref(message))
            .await??;
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact())
}

/// Messages that the driver refuses, each with what is wrong with it.
pub(super) fn unwritable(kit: &Kit, stream: &StreamName) -> Checked<Vec<(&'static str, Message)>> {
    let mut faults: Vec<(&str, Message)> = Vec::new();
    let bad = |stream: &StreamName, size: usize| {
        Message::builder(stream)
            .key(format!("bad-{size}"))
            .data(vec![b'x'; size])
            .build()
    };
    if let Some(limit) = kit
        .capabilities
        .largest_message
        .filter(|limit| *limit < LARGEST)
    {
        faults.push(("a message that is too large", bad(stream, limit + 1)?));
    }
    if let Some(stream) = kit.harness.refused_stream() {
        faults.push(("a stream name the driver refuses", bad(&stream, 2)?));
    }
    if !kit.capabilities.creates_streams {
        faults.push(("a stream that does not exist", bad(&kit.stream_name()?, 3)?));
    }
    Ok(faults)
}

pub(crate) async fn partial_batch_failure(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    // Each good message is followed by one that cannot be written, in each way there is.
    let faults = unwritable(kit, &target.stream)?;
    ensure!(
        !faults.is_empty(),
        "there is no message the driver refuses: its largest is over {LARGEST} bytes; add \
         `Harness::refused_stream`"
    );
    let good = kit.messages(&target.stream, faults.len() + 1, faults.len() + 1)?;
    let mut batch = Vec::new();
    for (good, (_, bad)) in good.iter().zip(&faults) {
        batch.extend([good.clone(), bad.clone()]);
    }
    batch.extend(good.last().cloned());

    let writer = driver.writer();
    let Err(error) = kit.write_once(&*writer, &batch).await? else {
        fail!("a batch with {} was written without an error", faults[0].0);
    };
    let named: Vec<_> = error.indices().collect();
    let expected: Vec<_> = (0..faults.len()).map(|i| 2 * i + 1).collect();
    ensure!(
        named == expected,
        "the messages {expected:?} of {} cannot be written, the error names {named:?}: {error}",
        batch.len()
    );
    for ((_, error), (what, _)) in error.failures().iter().zip(&faults) {
        ensure!(
            !error.is_retryable(),
            "{what} is reported as worth retrying: {error:?}"
        );
    }

    // Mended, only those are written again.
    let mut mended = Vec::new();
    for (_, bad) in &faults {
        mended.push(
            bad.to_builder()
                .stream(&target.stream)
                .data("mended")
                .build()?,
        );
    }
    kit.write(&*writer, &mended).await?;
    let ledger = Ledger::of(&good);
    ledger.wrote(&mended);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn payloads(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let writer = driver.writer();
    let stream = &target.stream;

    let built = Message::builder(stream).build();
    ensure!(
        matches!(&built, Err(error) if error.kind() == ErrorKind::EmptyMessage),
        "a message without data was built: {built:?}"
    );

    let limit = kit.capabilities.largest_message;
    let largest = limit.unwrap_or(1 << 20).min(LARGEST);
    let bytes = |size: usize| {
        (0..size)
            .map(|i| (i.wrapping_mul(31) >> 3) as u8)
            .collect::<Vec<_>>()
    };
    let mut messages = Vec::new();
    for data in [vec![7], (0..=255).collect(), bytes(4096), bytes(largest)] {
        messages.push(Message::builder(stream).data(data).build()?);
    }
    for message in &messages {
        kit.write_once(&*writer, std::slice::from_ref(message))
            .await??;
    }

    // What a reader met empty (a tombstone) may be written on, to the dead letters say. A driver
    // whose backend cannot hold it says so.
    let empty = Message::builder(stream).build_received()?;
    match kit
        .write_once(&*writer, std::slice::from_ref(&empty))
        .await?
    {
        Ok(()) => messages.push(empty),
        Err(error) => {
            let kind = error.failures()[0].1.kind();
            ensure!(
                kind == ErrorKind::EmptyMessage,
                "a message without data is refused with {kind:?} instead of `EmptyMessage`"
            );
        }
    }
    if let Some(limit) = limit.filter(|limit| *limit < LARGEST) {
        let message = Message::builder(stream).data(bytes(limit + 1)).build()?;
        let Err(error) = kit.write_once(&*writer, &[message]).await? else {
            fail!("a message of one byte more than the largest, {limit}, was written");
        };
        let kind = error.failures()[0].1.kind();
        ensure!(
            kind == ErrorKind::TooLarge,
            "a message that is too large is refused with {kind:?} instead of `TooLarge`"
        );
    }

    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

/// Sets of headers: what is special, whether every driver must take it, the headers.
fn awkward(most: Option<usize>, binary: bool) -> Vec<(&'static str, bool, Headers)> {
    let one = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
    let long = "v".repeat(8 << 10);
    let name = "n".repeat(200);
    vec![
        ("no headers", true, Headers::new()),
        (
            "40 headers",
            most.is_none_or(|most| most >= 40),
            (0..40)
                .map(|i| (format!("header-{i}"), format!("value {i}")))
                .collect(),
        ),
        ("plain", true, one("tenant", "acme")),
        (
            "a value with spaces at its ends",
            false,
            one("tenant", "  acme  "),
        ),
        ("a name with spaces", false, one("the tenant", "acme")),
        ("a name in another script", false, one("клиент", "acme")),
        (
            "a value in other scripts",
            true,
            one("tenant", "Ünïcødé 株式会社 🦀"),
        ),
        (
            "quotes",
            true,
            one("tenant", r#"'single' "double" \backslash"#),
        ),
        (
            "a value with line breaks",
            false,
            one("tenant", "one\ntwo\r\nthree"),
        ),
        (
            "a value with tabs and controls",
            false,
            one("tenant", "a\tb\u{1}c\u{7f}"),
        ),
        ("a value with a zero byte", false, one("tenant", "a\0b")),
        ("an empty value", false, one("tenant", "")),
        ("a long value", false, one("tenant", &long)),
        ("a long name", false, one(&name, "acme")),
        (
            "a name with punctuation",
            false,
            one("a:b=c;d,e%20/f?g", "acme"),
        ),
        ("names of the wire format", false, {
            let names = [
                "message_id",
                "content_type",
                "streams-message-id",
                "streams-stream-key",
                "id",
                "data",
            ];
            names.into_iter().map(|name| (name, "mine")).collect()
        }),
        ("names that differ in case, and one twice", false, {
            [("tag", "a"), ("Tag", "b"), ("tag", "c")]
                .into_iter()
                .collect()
        }),
        (
            "a value that is not text",
            binary,
            [("raw", vec![0_u8, 159, 146, 150, 255])]
                .into_iter()
                .collect(),
        ),
    ]
}

pub(crate) async fn metadata(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let writer = driver.writer();
    let ledger = Ledger::default();
    let sets = awkward(
        kit.capabilities.most_headers,
        kit.capabilities.binary_headers,
    );
    for (number, (what, must, headers)) in sets.into_iter().enumerate() {
        let message = Message::builder(&target.stream)
            .key(format!("key {number}"))
            .headers(headers)
            .content_type("application/vnd.kit+json; charset=utf-8")
            .data(format!("headers {number}"))
            .build()?;
        match kit
            .write_once(&*writer, std::slice::from_ref(&message))
            .await?
        {
            Ok(()) => ledger.wrote(&[message]),
            Err(error) => {
                let error = &error.failures()[0].1;
                let clear = [
                    ErrorKind::InvalidMessage,
                    ErrorKind::Unsupported,
                    ErrorKind::TooLarge,
                ];
                ensure!(
                    clear.contains(&error.kind()),
                    "headers with {what} are refused without a reason: {error:?}"
                );
                ensure!(
                    !must,
                    "headers with {what} must be taken, and are refused: {error:?}"
                );
            }
        }
    }
    if let Some(most) = kit.capabilities.most_headers {
        let headers = (0..=most)
            .map(|i| (format!("header-{i}"), "value"))
            .collect();
        let message = Message::builder(&target.stream)
            .headers(headers)
            .data("too many")
            .build()?;
        ensure!(
            kit.write_once(&*writer, &[message]).await?.is_err(),
            "the driver says that it takes at most {most} headers, and takes one more"
        );
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn concurrent_publish(kit: &Arc<Kit>) -> Checked {
    const PUBLISHERS: usize = 50;
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let writer = driver.writer();
    let ledger = Arc::new(Ledger::default());
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let (kit, writer, ledger, stream) = (
            kit.clone(),
            writer.clone(),
            ledger.clone(),
            target.stream.clone(),
        );
        tokio::spawn(async move {
            let key = Key::from(format!("publisher {publisher}"));
            let messages = kit.messages(&stream, kit.count(5_000) / PUBLISHERS, 1)?;
            for batch in messages.chunks(7) {
                let mut own = Vec::new();
                for message in batch {
                    own.push(message.to_builder().key(key.clone()).build()?);
                }
                ledger.wrote(&own);
                kit.write_once(&*writer, &own).await??;
                tokio::task::yield_now().await;
            }
            Checked::Ok(())
        })
    });
    for publisher in join_all(publishers).await {
        publisher??;
    }
    let mut tap = kit.tap(&driver, &target).await?;
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(kit.exact_per_key())
}

pub(crate) async fn many_streams(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let mut targets = Vec::new();
    let mut all = Vec::new();
    for _ in 0..20 {
        let target = kit.target().await?;
        let messages = kit.messages(&target.stream, kit.count(100), 4)?;
        all.push(messages.clone());
        targets.push((target, Ledger::of(&messages)));
    }
    let mixed: Vec<_> = (0..all[0].len())
        .flat_map(|i| all.iter().map(move |own| own[i].clone()))
        .collect();
    kit.write(&*driver.writer(), &mixed).await?;
    let read = async |target, ledger: &Ledger| {
        let mut tap = kit.tap(&driver, target).await?;
        tap.drain(ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(kit.exact())
    };
    // At the same time, for joining a group may take long.
    let all = targets.iter().map(|(target, ledger)| read(target, ledger));
    join_all(all).await.into_iter().collect()
}
