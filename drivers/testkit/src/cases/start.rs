//! Where a subscription starts, and what it may not ask for.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{
    Driver, DriverOptions, ErrorKind, MessageId, ReadOptions, StartFrom, StreamName, WriteError,
    from_unix_millis, unix_millis,
};
use tokio::time::{sleep, timeout};

use crate::failure::{Checked, ensure, fail};
use crate::kit::Kit;
use crate::ledger::{Budget, Ledger};

/// Options to read a stream with a group of its own, or without where there are none.
fn fresh(kit: &Kit, stream: &StreamName) -> Checked<ReadOptions> {
    let options = ReadOptions::new(stream)?;
    Ok(if kit.capabilities.groups {
        options.group(kit.group_name()?)?
    } else {
        options
    })
}

pub(crate) async fn start_position(kit: &Arc<Kit>) -> Checked {
    let start = kit.capabilities.start;
    let driver = kit.open().await?;
    // A driver that keeps nothing for groups to come keeps it for the target's, which reads nothing.
    let stream = kit.target().await?.stream;
    let writer = driver.writer();
    // One key, so that one partition and one order; times that differ.
    let mut messages = Vec::new();
    for i in 0..10 {
        let time = from_unix_millis(unix_millis(kit.clock.now()));
        let message = streams_core::Message::builder(&stream)
            .key("one")
            .data(format!("{i}"))
            .time(time)
            .build()?;
        kit.write(&*writer, std::slice::from_ref(&message)).await?;
        messages.push(message);
        sleep(Duration::from_millis(10)).await;
    }
    let boundary = 5;
    let expect = async |from: StartFrom, expected: &[streams_core::Message]| {
        let mut tap = kit
            .tap_with(&driver, &fresh(kit, &stream)?.start_from(from.clone()))
            .await?;
        let ledger = Ledger::of(expected);
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        match ledger.check(kit.exact()) {
            Ok(()) => Ok(()),
            Err(failure) => fail!("starting from {from:?}: {failure}"),
        }
    };
    if start.earliest {
        expect(StartFrom::Earliest, &messages).await?;
    }
    if start.time {
        expect(
            StartFrom::Time(messages[boundary].time()),
            &messages[boundary..],
        )
        .await?;
    }
    if start.time {
        // All there is is older.
        let future = StartFrom::Time(kit.clock.now() + Duration::from_secs(3600));
        expect(future.clone(), &[]).await?;
        if kit.capabilities.no_group {
            let alone = ReadOptions::new(&stream)?.start_from(future);
            let ledger = Ledger::of(&[]);
            let mut tap = kit.tap_with(&driver, &alone).await?;
            tap.drain(&ledger, kit.quiet()).await?;
            tap.close().await?;
            ledger.check(kit.exact())?;
        }
    }
    if start.position {
        // The position shows on a delivery; a reader from the start, or from the first time, sees it.
        let from = if start.earliest {
            StartFrom::Earliest
        } else {
            StartFrom::Time(messages[0].time())
        };
        ensure!(
            start.earliest || start.time,
            "a driver that starts at positions must start at the earliest message too, for one to be found"
        );
        let mut tap = kit
            .tap_with(&driver, &fresh(kit, &stream)?.start_from(from))
            .await?;
        let deliveries = tap.take(boundary + 1).await?;
        let position = kit.harness.position(&deliveries[boundary]);
        tap.ack(deliveries.into_iter().map(|delivery| delivery.token))
            .await?;
        tap.close().await?;
        expect(StartFrom::Position(position), &messages[boundary..]).await?;
    }
    if start.latest {
        let mut tap = kit
            .tap_with(&driver, &fresh(kit, &stream)?.start_from(StartFrom::Latest))
            .await?;
        let more = kit.messages(&stream, 5, 1)?;
        kit.write(&*writer, &more).await?;
        let ledger = Ledger::of(&more);
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(kit.exact())?;
    }
    Ok(())
}

pub(crate) async fn group_start(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let writer = driver.writer();
    let latest = kit.capabilities.start.latest;
    let options = |stream: &StreamName, group: &str| -> Checked<ReadOptions> {
        let options = ReadOptions::new(stream)?.group(group)?;
        Ok(match latest {
            true => options.start_from(StartFrom::Latest),
            false => options,
        })
    };
    for busy in [false, true] {
        let group = kit.group_name()?;
        // A member that reads another stream, for groups whose streams share what they have.
        let mut other = None;
        if busy {
            let stream = kit.stream().await?;
            let mut tap = kit.tap_with(&driver, &options(&stream, &group)?).await?;
            let messages = kit.messages(&stream, 5, 1)?;
            kit.write(&*writer, &messages).await?;
            let ledger = Ledger::of(&messages);
            tap.drain(&ledger, kit.quiet()).await?;
            ledger.check(kit.exact())?;
            other = Some((stream, tap));
        }
        let stream = kit.target().await?.stream;
        if latest {
            kit.write(&*writer, &kit.messages(&stream, 10, 10)?).await?;
        }
        let first = kit.tap_with(&driver, &options(&stream, &group)?).await?;
        let messages = kit.messages(&stream, 10, 10)?;
        kit.write(&*writer, &messages).await?;
        drop(first); // a crash: nothing was acknowledged
        let mut second = kit.tap_with(&driver, &options(&stream, &group)?).await?;
        let ledger = Ledger::of(&messages);
        second.drain(&ledger, kit.quiet()).await?;
        second.close().await?;
        match ledger.check(kit.exact()) {
            Ok(()) => {}
            Err(failure) => fail!(
                "a group{} whose first reader crashed before it acknowledged anything: {failure}",
                if busy {
                    " that reads another stream too"
                } else {
                    ""
                }
            ),
        }
        if let Some((stream, mut tap)) = other {
            let messages = kit.messages(&stream, 5, 1)?;
            kit.write(&*writer, &messages).await?;
            let ledger = Ledger::of(&messages);
            tap.drain(&ledger, kit.quiet()).await?;
            tap.close().await?;
            ledger.check(kit.exact())?;
        }
    }
    Ok(())
}

pub(crate) async fn missing_stream(kit: &Arc<Kit>) -> Checked {
    let driver = kit.open().await?;
    let writer = driver.writer();
    let written = kit.stream_name()?;
    let message = kit.messages(&written, 1, 1)?;
    let write = kit.write_once(&*writer, &message).await?;
    let read = kit.stream_name()?;
    let options = fresh(kit, &read)?;
    let Ok(subscribed) = timeout(kit.patience(), driver.reader().subscribe(&options)).await else {
        fail!("subscribing to a stream that does not exist hangs");
    };
    if !kit.capabilities.creates_streams {
        let Err(error) = write else {
            fail!(
                "the driver says that it does not create streams, and writing to a missing one succeeded"
            );
        };
        let kind = error.failures()[0].1.kind();
        ensure!(
            kind == ErrorKind::NotFound,
            "writing to a missing stream is refused with {kind:?}, not `NotFound`"
        );
        return match subscribed {
            Ok(_) => fail!(
                "the driver says that it does not create streams, and subscribing to a missing one succeeded"
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => fail!(
                "subscribing to a missing stream is refused, but not with `NotFound`: {error:?}"
            ),
        };
    }
    match write {
        Ok(()) => {}
        // A driver that keeps nothing for groups to come may say that there is none.
        Err(error)
            if !kit.capabilities.keeps_before_group
                && kind_of(&error) == ErrorKind::NoSubscriberRegistered => {}
        Err(error) => return Err(error.into()),
    }
    if kit.capabilities.keeps_before_group {
        let target = kit.target_of(written).await?;
        let ledger = Ledger::of(&message);
        let mut tap = kit.tap(&driver, &target).await?;
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        ledger.check(Budget::ONCE)?;
    }
    let mut tap = crate::tap::Tap::new(subscribed?, kit.patience());
    let messages = kit.messages(&read, 1, 1)?;
    kit.write(&*writer, &messages).await?;
    let ledger = Ledger::of(&messages);
    tap.drain(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

/// Options of no driver there is.
#[derive(Debug)]
struct Foreign;

impl DriverOptions for Foreign {
    const DRIVER: &'static str = "streams-testkit";
}

pub(crate) async fn unsupported_is_said(kit: &Arc<Kit>) -> Checked {
    let has = &kit.capabilities;
    let driver = kit.open().await?;
    let stream = kit.stream().await?;
    let plain = fresh(kit, &stream)?;

    // What the capabilities do not have is refused by the driver and when the bus is built.
    let mut beyond: Vec<(&str, ReadOptions)> = Vec::new();
    if !has.groups {
        beyond.push(("a group", ReadOptions::new(&stream)?.group("kit")?));
    }
    if !has.no_group && !has.shares_without_group {
        beyond.push(("no group", ReadOptions::new(&stream)?));
    }
    let starts = [
        (
            has.start.earliest,
            "to start from the earliest",
            StartFrom::Earliest,
        ),
        (
            has.start.latest,
            "to start with the latest",
            StartFrom::Latest,
        ),
        (
            has.start.position,
            "to start at a position",
            StartFrom::Position("1".to_owned()),
        ),
        (
            has.start.time,
            "to start at a time",
            StartFrom::Time(kit.clock.now()),
        ),
    ];
    for (can, what, start) in starts {
        if !can {
            beyond.push((what, plain.clone().start_from(start)));
        }
    }
    for (what, options) in beyond {
        refused(kit, &driver, what, &options, ErrorKind::Unsupported).await?;
        let bus = kit.bus().await?;
        let mut subscription = bus
            .subscribe_stream(&stream, |_, _| async {})
            .start_from(options.start.clone());
        if let Some(group) = &options.group {
            subscription = subscription.group(group);
        }
        match subscription.register() {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => fail!("a bus asked for {what}, which the driver cannot do, and got {other:?}"),
        }
    }

    if !has.exactly_once {
        let bus = kit.bus().await?;
        let subscription = bus
            .subscribe_stream(&stream, |_, _| async {})
            .exactly_once();
        let subscription = match &plain.group {
            Some(group) => subscription.group(group),
            None => subscription,
        };
        match subscription.register() {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => {
                fail!("a bus asked for exactly once, which the driver cannot do, and got {other:?}")
            }
        }
    }
    let mut unknown = plain.clone();
    unknown.driver.set("streams-testkit-no-such-argument", "1");
    refused(
        kit,
        &driver,
        "an unknown argument",
        &unknown,
        ErrorKind::InvalidConfig,
    )
    .await?;
    let mut foreign = plain;
    foreign.driver.insert(Foreign);
    refused(
        kit,
        &driver,
        "options of another driver",
        &foreign,
        ErrorKind::InvalidConfig,
    )
    .await?;

    let writer = driver.writer();
    let message = kit.messages(&stream, 1, 1)?;
    let now = kit.clock.now();
    let too_far = match has.delay {
        None => Some(now + Duration::from_secs(1)),
        Some(limit) => limit
            .checked_add(Duration::from_secs(3600))
            .and_then(|far| now.checked_add(far)),
    };
    if let Some(due) = too_far {
        match writer.write_at(&message, due).await {
            Err(error) if kind_of(&error) == ErrorKind::Unsupported => {}
            other => fail!(
                "a message was to be delivered at {due:?}, which the driver cannot do: {other:?}"
            ),
        }
    }
    if !has.transactions {
        match writer.write_in_transaction(&message).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => fail!("the driver has no transactions, was asked for one, and said {other:?}"),
        }
    }
    if !has.cancel_delayed {
        match writer.cancel(&stream, &MessageId::new("none")?).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => fail!("the driver cannot cancel, was asked to, and said {other:?}"),
        }
    }
    if !has.list_delayed {
        match writer.scheduled(&stream, 1).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            other => {
                fail!("the driver cannot list scheduled messages, was asked to, and said {other:?}")
            }
        }
    }
    Ok(())
}

fn kind_of(error: &WriteError) -> ErrorKind {
    error.failures()[0].1.kind()
}

async fn refused(
    kit: &Kit,
    driver: &streams_core::AnyDriver,
    what: &str,
    options: &ReadOptions,
    kind: ErrorKind,
) -> Checked {
    match timeout(kit.patience(), driver.reader().subscribe(options)).await {
        Ok(Err(error)) if error.kind() == kind => Ok(()),
        Ok(Err(error)) => {
            fail!("the driver was asked for {what} and refused, but not with {kind:?}: {error:?}")
        }
        Ok(Ok(_)) => {
            fail!("the driver was asked for {what}, which it cannot do, and took it without a word")
        }
        Err(_) => fail!("the driver was asked for {what}, and subscribing hangs"),
    }
}
