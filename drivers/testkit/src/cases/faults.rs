//! Servers that restart and networks that fail.

use std::sync::Arc;
use std::time::Duration;

use streams_core::{AnyDriver, Driver};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::failure::{Checked, fail};
use crate::kit::Kit;
use crate::ledger::Ledger;

/// Between a publisher's messages, so that the trouble comes in their midst.
const PACE: Duration = Duration::from_millis(1);

/// Publishers that do not give up and a bus that reads, while `trouble` happens.
async fn through(kit: &Arc<Kit>, trouble: impl AsyncFnOnce(&Ledger, usize) -> Checked) -> Checked {
    const PUBLISHERS: usize = 4;
    let target = kit.target().await?;
    let driver: AnyDriver = kit.open().await?;
    let count = kit.count(10_000);
    let ledger = Arc::new(Ledger::default());
    let bus = kit.bus().await?;
    let subscription = {
        let ledger = ledger.clone();
        bus.subscribe_stream(&target.stream, move |message, _| {
            let ledger = ledger.clone();
            async move {
                // Something is in flight whenever the trouble comes.
                sleep(PACE).await;
                ledger.arrived(&message);
            }
        })
    };
    target.reading(subscription).register()?;
    bus.start().await?;

    let mut publishers = JoinSet::new();
    let per_publisher = count / PUBLISHERS;
    for publisher in 0..PUBLISHERS {
        let (kit, writer, ledger, stream) = (
            kit.clone(),
            driver.writer(),
            ledger.clone(),
            target.stream.clone(),
        );
        publishers.spawn(async move {
            for message in kit.messages(&stream, per_publisher, per_publisher)? {
                let message = message
                    .to_builder()
                    .key(format!("{publisher}-{}", fastrand::u8(0..8)))
                    .build()?;
                ledger.wrote(std::slice::from_ref(&message));
                // A retry of a write whose answer was lost may write twice; the budget allows it.
                kit.write_stubbornly(&*writer, &[message]).await?;
                sleep(PACE).await;
            }
            Checked::Ok(())
        });
    }
    trouble(&ledger, per_publisher * PUBLISHERS).await?;
    while let Some(publisher) = publishers.join_next().await {
        publisher??;
    }
    ledger.settled(2 * kit.patience()).await;
    kit.shutdown(&bus).await?;
    ledger.check(crate::ledger::Budget::ONCE.duplicates(usize::MAX))
}

pub(crate) async fn reconnect(kit: &Arc<Kit>) -> Checked {
    let Some(server) = kit.harness.server() else {
        fail!("the harness had a server before");
    };
    through(kit, async |ledger, count| {
        for part in [count / 3, count / 2] {
            kit.until_reached("a part of the messages has arrived", ledger, part)
                .await?;
            server.restart().await?;
        }
        Ok(())
    })
    .await
}

pub(crate) async fn network_cut(kit: &Arc<Kit>) -> Checked {
    let Some(network) = kit.harness.network() else {
        fail!("the harness had a network before");
    };
    through(kit, async |ledger, count| {
        kit.until_reached("a third of the messages has arrived", ledger, count / 3)
            .await?;
        network.cut().await?;
        sleep(kit.period(Duration::from_secs(10))).await;
        network.mend(Duration::from_millis(50)).await?;
        // Publishers wait for each message, so that each takes them several times that long.
        let more = ledger.distinct() + (count - ledger.distinct()).min(100);
        kit.until_reached("messages arrive through a slow network", ledger, more)
            .await?;
        network.mend(Duration::ZERO).await?;
        Ok(())
    })
    .await
}
