//! The stream of what was committed to the table, in the order of the commits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use pgwire_replication::{
    FeedbackObserver, Lsn, PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent,
};
use streams_core::Result;
use tokio::sync::Notify;

use super::error::{IN_USE, error, sqlstate};
use super::pgoutput::{Change, Decoder};

/// What may wait between the connection and the relay: rows, and where transactions begin and end.
/// It is what bounds memory in a large transaction, so it is small; the server keeps the rest.
const AHEAD: usize = 16;

/// How long a confirmed position may wait until the server is told.
const TELL: Duration = Duration::from_millis(20);

/// How long the server may take for what is asked of it at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The connection that has the slot.
pub(super) struct Stream {
    client: ReplicationClient,
    decoder: Decoder,
    told: Arc<Notify>,
    /// The transaction that comes, from its begin to its end.
    transaction: Option<u32>,
}

/// What comes.
#[derive(Debug)]
pub(super) enum Item {
    /// A transaction inserted a row, or made it another. It may be committed in the log and not yet be
    /// seen by others.
    Change(u32, Change),
    /// All before this position has come.
    Position(Lsn),
    /// What [`write_mark`](super::table::write_mark) has written.
    Mark(Bytes),
}

impl Stream {
    /// Takes the slot. `None` if somebody else has it.
    pub(super) async fn open(
        config: ReplicationConfig,
        table: u32,
        from: Lsn,
    ) -> Result<Option<Self>> {
        let told = Arc::new(Notify::new());
        let tell = told.clone();
        let config = config
            .with_ack_lsn(from)
            .with_binary(true)
            .with_buffer_size(AHEAD)
            .with_status_interval(TELL)
            .with_feedback_observer(FeedbackObserver::new(move |_| tell.notify_one()));
        let mut client = ReplicationClient::connect(config).await.map_err(error)?;
        match client.wait_started().await {
            Ok(()) => Ok(Some(Self {
                client,
                decoder: Decoder::new(table),
                told,
                transaction: None,
            })),
            Err(PgWireError::Server(text)) if sqlstate(&text) == IN_USE => Ok(None),
            Err(source) => Err(error(source)),
        }
    }

    /// What comes next. It may be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Item> {
        loop {
            let event = self.client.recv().await.map_err(error)?;
            if let Some(item) = self.item(event)? {
                return Ok(item);
            }
        }
    }

    /// What comes next, if it is here already.
    pub(super) async fn next_here(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.next().now_or_never() {
            return item.map(Some);
        }
        // What reads the connection may have waited for room here.
        tokio::task::yield_now().await;
        self.next().now_or_never().transpose()
    }

    fn item(&mut self, event: Option<ReplicationEvent>) -> Result<Option<Item>> {
        let Some(event) = event else {
            return Err(error(PgWireError::Task("the connection ended".to_owned())));
        };
        Ok(match event {
            ReplicationEvent::Begin { xid, .. } => {
                self.transaction = Some(xid);
                None
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.transaction = None;
                Some(Item::Position(end_lsn))
            }
            // Within a transaction it says nothing of that.
            ReplicationEvent::KeepAlive { wal_end, .. } if self.transaction.is_none() => {
                Some(Item::Position(wal_end))
            }
            ReplicationEvent::Message {
                prefix, content, ..
            } if prefix == super::table::PREFIX => Some(Item::Mark(content)),
            ReplicationEvent::XLogData { data, .. } => {
                let change = self.decoder.decode(&data)?;
                change.map(|change| Item::Change(self.transaction.unwrap_or_default(), change))
            }
            _ => None,
        })
    }

    /// Tells the server that all before this position is done with.
    pub(super) fn confirm(&self, position: Lsn) {
        self.client.update_applied_lsn(position);
    }

    /// Ends it, so that the slot is free, once the server knows what was confirmed.
    pub(super) async fn close(mut self, confirmed: Lsn) {
        let metrics = self.client.metrics();
        let told = async {
            while metrics.last_applied_lsn() < confirmed && self.client.is_running() {
                self.told.notified().await;
            }
        };
        // If the server does not answer, it repeats something later.
        let _ = tokio::time::timeout(PATIENCE, told).await;
        self.client.stop();
        let ended = async { while let Ok(Some(_)) = self.client.recv().await {} };
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

/// The slot becomes free at once, also while the connection hangs.
impl Drop for Stream {
    fn drop(&mut self) {
        self.client.abort();
    }
}
