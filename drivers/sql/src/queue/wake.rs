//! Readers that wait are woken: by writers of the same queue, and on PostgreSQL by those of other
//! processes.
//!
//! PostgreSQL lets transactions that notify commit one after another. So writers do not notify in
//! their own transactions, but after them, in one of its own for all that were committed meanwhile. If
//! that is lost, readers find the messages when they poll.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

/// Streams that others were not told of yet; if there are more, they are left to polling.
#[cfg(feature = "postgres")]
const WAITING: usize = 1024;

#[derive(Debug)]
pub(crate) struct Wake {
    streams: Mutex<HashMap<i64, watch::Sender<()>>>,
    /// To whoever tells other processes, once somebody does.
    others: std::sync::OnceLock<mpsc::Sender<i64>>,
}

impl Wake {
    pub(crate) fn new() -> Self {
        Self {
            streams: Mutex::default(),
            others: std::sync::OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, watch::Sender<()>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever a stream should be looked at.
    pub(crate) fn watch(&self, stream: i64) -> watch::Receiver<()> {
        let mut streams = self.lock();
        streams.retain(|_, sender| sender.receiver_count() > 0);
        streams.entry(stream).or_default().subscribe()
    }

    /// Has the readers of a stream look at it, here and in other processes.
    pub(crate) fn wake(&self, stream: i64) {
        self.wake_here(stream);
        if let Some(others) = self.others.get() {
            // If it is full, they find it when they poll.
            let _ = others.try_send(stream);
        }
    }

    pub(crate) fn wake_here(&self, stream: i64) {
        if let Some(sender) = self.lock().get(&stream) {
            sender.send_replace(());
        }
    }

    #[cfg(feature = "postgres")]
    fn wake_all_here(&self) {
        self.lock().values().for_each(|sender| {
            sender.send_replace(());
        });
    }
}

#[cfg(feature = "postgres")]
pub(crate) use postgres::{listen, tell_others};

#[cfg(feature = "postgres")]
mod postgres {
    use std::collections::BTreeSet;
    use std::sync::Weak;
    use std::time::Duration;

    use sqlx::PgPool;
    use sqlx::postgres::PgListener;
    use tokio::sync::mpsc;
    use tokio::time::{sleep, timeout};

    use super::{WAITING, Wake};

    /// Between two notifications, so that many writes share one.
    const PACE: Duration = Duration::from_millis(5);
    /// After a connection was lost.
    const PAUSE: Duration = Duration::from_secs(1);
    /// A notification that takes longer is left to polling.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Tells other processes of what is written here, from now on.
    pub(crate) fn tell_others(wake: &Wake, pool: &PgPool, channel: &str, process: u64) {
        wake.others.get_or_init(|| {
            let (sender, streams) = mpsc::channel(WAITING);
            tokio::spawn(notify(pool.clone(), channel.to_owned(), process, streams));
            sender
        });
    }

    /// Ends when the queue is gone.
    async fn notify(pool: PgPool, channel: String, process: u64, mut streams: mpsc::Receiver<i64>) {
        while let Some(stream) = streams.recv().await {
            let mut all = BTreeSet::from([stream]);
            while let Ok(stream) = streams.try_recv() {
                all.insert(stream);
            }
            for stream in all {
                let notify = sqlx::query("SELECT pg_notify($1, $2)")
                    .bind(&channel)
                    .bind(format!("{process} {stream}"))
                    .execute(&pool);
                if !matches!(timeout(PATIENCE, notify).await, Ok(Ok(_))) {
                    tracing::debug!(stream, "other processes could not be told of messages");
                }
            }
            sleep(PACE).await;
        }
    }

    /// Wakes readers when other processes say so, until the queue is gone.
    pub(crate) async fn listen(wake: Weak<Wake>, pool: PgPool, channel: String, process: u64) {
        while wake.strong_count() > 0 {
            if let Err(error) = hear(&wake, &pool, &channel, process).await {
                tracing::debug!(%error, "readers poll until PostgreSQL can be listened to again");
            }
            sleep(PAUSE).await;
        }
    }

    async fn hear(
        wake: &Weak<Wake>,
        pool: &PgPool,
        channel: &str,
        process: u64,
    ) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        loop {
            // What was said before it listened, or while its connection was lost, is not known.
            if let Some(wake) = wake.upgrade() {
                wake.wake_all_here();
            }
            while let Some(notification) = listener.try_recv().await? {
                let Some(wake) = wake.upgrade() else {
                    return Ok(());
                };
                let said = notification.payload().split_once(' ');
                let said = said.and_then(|(who, stream)| {
                    Some((who.parse::<u64>().ok()?, stream.parse::<i64>().ok()?))
                });
                if let Some((who, stream)) = said
                    && who != process
                {
                    wake.wake_here(stream);
                }
            }
        }
    }
}
