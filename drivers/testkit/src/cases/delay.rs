//! Scheduled messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use streams_core::{Driver, ErrorKind, MessageId};

use crate::failure::{Checked, ensure, fail};
use crate::kit::Kit;
use crate::ledger::{Budget, Ledger};

pub(crate) async fn delayed(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let writer = driver.writer();
    let mut messages = kit.messages(&target.stream, 7, 1)?;
    let now = kit.clock.now();
    let Some(limit) = kit.capabilities.delay else {
        let Err(error) = writer
            .write_at(&messages, now + Duration::from_secs(1))
            .await
        else {
            fail!("the driver cannot schedule messages, and took them");
        };
        ensure!(
            error.indices().eq(0..messages.len()),
            "the error names only some of the messages: {error}"
        );
        let kinds = error
            .failures()
            .iter()
            .all(|(_, error)| error.kind() == ErrorKind::Unsupported);
        ensure!(
            kinds,
            "the driver cannot schedule messages, and does not say `Unsupported`: {error}"
        );
        // Nothing of them was written: what is written now is the first to come, and the last.
        let marker = kit.messages(&target.stream, 1, 1)?;
        kit.write(&*writer, &marker).await?;
        let ledger = Ledger::of(&marker);
        let mut tap = kit.tap(&driver, &target).await?;
        tap.drain(&ledger, kit.quiet()).await?;
        tap.close().await?;
        return ledger.check(Budget::ONCE);
    };

    // Far enough apart to tell them from each other.
    let step = (2 * kit.profile.tick)
        .max(Duration::from_millis(200))
        .min(limit / 8);
    // Cancelled before the others are written, however long that takes: some are due after it.
    let cancelled = messages.split_off(6);
    if kit.capabilities.cancel_delayed {
        let id = cancelled[0].id();
        writer
            .write_at(&cancelled, kit.clock.now() + step * 4)
            .await?;
        let cancel = async |what: &str, id: &MessageId, expected: bool| {
            let done = writer.cancel(&target.stream, id).await?;
            ensure!(done == expected, "cancelling {what} says {done}");
            Ok::<_, crate::failure::Failure>(())
        };
        cancel("a scheduled message", id, true).await?;
        cancel("it once more", id, false).await?;
        cancel(
            "a message that never was",
            &MessageId::new("never-was")?,
            false,
        )
        .await?;
    }

    // Not in order.
    let now = kit.clock.now();
    let mut due = HashMap::new();
    for (message, steps) in messages.iter().zip([3_u32, 1, 4, 2, 5]) {
        let at = now + step * steps;
        writer.write_at(std::slice::from_ref(message), at).await?;
        due.insert(message.id().clone(), at);
    }
    // A time gone by is now.
    let past = now - Duration::from_secs(60);
    writer.write_at(&messages[5..], past).await?;
    due.insert(messages[5].id().clone(), past);
    // Those whose time came before all were written may come in the order of writing.
    let written = kit.clock.now();

    let ledger = Ledger::of(&messages);
    let mut tap = kit.tap(&driver, &target).await?;
    let mut last = past;
    while ledger.missing() > 0 {
        let Some(deliveries) = tap.receive_within(64, step * 5 + kit.patience()).await? else {
            break;
        };
        let arrived = kit.clock.now() + Duration::from_millis(5);
        for delivery in deliveries {
            let Some(due) = due.get(delivery.message.id()) else {
                fail!("a message came that had been cancelled");
            };
            let early = due.duration_since(arrived).unwrap_or_default();
            ensure!(
                early.is_zero(),
                "a scheduled message came {early:?} before its time"
            );
            if *due == past || *due > written {
                ensure!(
                    *due >= last,
                    "scheduled messages did not come in the order of their times"
                );
                last = *due;
            }
            ledger.arrived(&delivery.message);
            tap.ack([delivery.token]).await?;
        }
    }
    tap.drain_quiet(&ledger, kit.quiet()).await?;
    tap.close().await?;
    ledger.check(Budget::ONCE)
}

pub(crate) async fn delayed_list(kit: &Arc<Kit>) -> Checked {
    let target = kit.target().await?;
    let driver = kit.open().await?;
    let (writer, stream) = (driver.writer(), &target.stream);
    let messages = kit.messages(stream, 3, 1)?;
    // Not due before the case is over, and not in the order of writing.
    let most = kit.capabilities.delay.unwrap_or_default();
    let step = (most / 8).min(Duration::from_secs(600));
    let now = kit.clock.now();
    let mut expected = Vec::new();
    for (message, steps) in messages.iter().zip([6, 4, 5]) {
        let due = now + step * steps;
        writer.write_at(std::slice::from_ref(message), due).await?;
        expected.push((due, message));
    }
    expected.sort_by_key(|(due, _)| *due);
    for limit in [100, 2, 0] {
        let listed = writer.scheduled(stream, limit).await?;
        let expected = &expected[..expected.len().min(limit)];
        ensure!(
            listed.len() == expected.len(),
            "{} of {} scheduled messages are listed, at most {limit} were asked for",
            listed.len(),
            expected.len()
        );
        for (listed, (due, message)) in listed.iter().zip(expected) {
            ensure!(
                listed.message == **message,
                "{:?} is listed where {message:?} is due",
                listed.message
            );
            let early = due.duration_since(listed.due).unwrap_or_default();
            let late = listed.due.duration_since(*due).unwrap_or_default();
            ensure!(
                early.is_zero() && late <= Duration::from_secs(1),
                "a message that is due at {due:?} is listed for {:?}",
                listed.due
            );
        }
    }
    for left in (0..3).rev() {
        let (_, message) = expected[left];
        ensure!(
            writer.cancel(stream, message.id()).await?,
            "a message that is listed cannot be cancelled"
        );
        let listed = writer.scheduled(stream, 100).await?;
        ensure!(
            listed.len() == left,
            "{} messages are listed, {left} were not cancelled",
            listed.len()
        );
    }
    Ok(())
}
