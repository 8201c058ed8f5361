//! Transactions that are not all or nothing.

use streams_core::{
    Message, Result, SettleAction, SettleReport, Subscription, TransactionPart, Writer,
};

use crate::fault::Fault;

/// Writes what can be written of a batch.
pub(crate) async fn write_in_part(
    fault: Fault,
    writer: &dyn Writer,
    batch: &[Message],
) -> Result<()> {
    match writer.write_in_transaction(batch).await {
        Err(error) if fault == Fault::WritesInPart => {
            // Some of it, and the right error.
            let _ = writer.write(batch).await;
            Err(error)
        }
        Err(_) if fault == Fault::HidesFailures => Ok(()),
        result => result,
    }
}

/// Settles and writes, in two steps where the fault says so. Another may come in between, or nobody.
pub(crate) async fn settle(
    fault: Fault,
    next: &mut dyn Subscription,
    writer: &dyn Writer,
    parts: &mut Vec<TransactionPart>,
) -> Result<SettleReport> {
    let apart = matches!(
        fault,
        Fault::WritesBeforeSettling
            | Fault::SettlesBeforeWriting
            | Fault::WritesWhatIsLost
            | Fault::IgnoresAcks
    );
    if !apart {
        return next.settle_in_transaction(parts).await;
    }
    let mut outputs = Vec::new();
    let mut settlements = Vec::new();
    for part in parts.drain(..) {
        outputs.extend(part.outputs);
        settlements.push(part.settlement);
    }
    if fault == Fault::IgnoresAcks {
        settlements.retain(|settlement| settlement.action != SettleAction::Ack);
    }
    if fault == Fault::SettlesBeforeWriting {
        let report = next.settle(&mut settlements).await?;
        tokio::task::yield_now().await;
        writer.write(&outputs).await?;
        return Ok(report);
    }
    writer.write(&outputs).await?;
    if fault == Fault::WritesBeforeSettling {
        tokio::task::yield_now().await;
    }
    next.settle(&mut settlements).await
}
