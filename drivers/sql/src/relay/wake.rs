//! When the relay looks at the table: when it is told, or else after a while.

#[cfg(feature = "postgres")]
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::database::Database;
use crate::outbox::Outbox;

/// What a relay that lets go of its lease says on the channel. Whoever inserts says nothing.
#[cfg(feature = "postgres")]
pub(crate) const RELEASED: &str = "released";

/// Tells of rows, and of a lease that is free.
pub(crate) struct Wake {
    /// By this process.
    notified: watch::Receiver<()>,
    /// By any, as PostgreSQL says.
    heard: Heard,
    /// Ends when this is dropped.
    _listener: JoinSet<()>,
}

/// The senders are held so that waiting does not end.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "postgres"),
    expect(dead_code, reason = "only PostgreSQL says anything")
)]
struct Heard {
    rows: watch::Sender<()>,
    released: watch::Sender<()>,
    rows_seen: watch::Receiver<()>,
    released_seen: watch::Receiver<()>,
}

impl Wake {
    pub(crate) fn new<DB: Database>(outbox: &Outbox<DB>, listen: bool) -> Self {
        let (rows, rows_seen) = watch::channel(());
        let (released, released_seen) = watch::channel(());
        let heard = Heard {
            rows,
            released,
            rows_seen,
            released_seen,
        };
        let mut listener = JoinSet::new();
        #[cfg(feature = "postgres")]
        if let Some(pool) = postgres(outbox).filter(|_| listen) {
            let channel = outbox.channel().to_owned();
            listener.spawn(listen::run(pool.clone(), channel, heard.clone()));
        }
        #[cfg(not(feature = "postgres"))]
        let _ = (listen, &mut listener);
        Self {
            notified: outbox.notified(),
            heard,
            _listener: listener,
        }
    }

    /// What was told so far is not told again. Call it before you look.
    pub(crate) fn seen(&mut self) {
        self.notified.mark_unchanged();
        self.heard.rows_seen.mark_unchanged();
        self.heard.released_seen.mark_unchanged();
    }

    /// Waits until somebody says that there are rows.
    pub(crate) async fn rows(&mut self) {
        // The senders live as long as the outbox and this.
        tokio::select! {
            _ = self.notified.changed() => {}
            _ = self.heard.rows_seen.changed() => {}
        }
    }

    /// Waits until somebody says that a lease is free.
    pub(crate) async fn released(&mut self) {
        let _ = self.heard.released_seen.changed().await;
    }
}

/// Tells the relays that stand by that the lease is free.
pub(crate) async fn tell_released<DB: Database>(outbox: &Outbox<DB>) {
    #[cfg(feature = "postgres")]
    if let Some(pool) = postgres(outbox) {
        let notify = sqlx::query("SELECT pg_notify($1, $2)")
            .bind(outbox.channel())
            .bind(RELEASED);
        // If it is lost they find out at their next look.
        let _ = tokio::time::timeout(Duration::from_secs(5), notify.execute(pool)).await;
    }
    #[cfg(not(feature = "postgres"))]
    let _ = outbox;
}

#[cfg(feature = "postgres")]
fn postgres<DB: Database>(outbox: &Outbox<DB>) -> Option<&sqlx::PgPool> {
    let pool: &dyn std::any::Any = outbox.pool();
    pool.downcast_ref()
}

#[cfg(feature = "postgres")]
mod listen {
    use sqlx::PgPool;
    use sqlx::postgres::{PgListener, PgPoolOptions};
    use streams_core::Backoff;
    use tokio::time::sleep;

    use super::{Duration, Heard, RELEASED};

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    /// Listens for ever, on a connection of its own: one of the pool would be lost to others.
    pub(super) async fn run(pool: PgPool, channel: String, heard: Heard) {
        let own = PgPoolOptions::new().max_connections(1);
        let own = own.connect_lazy_with((*pool.connect_options()).clone());
        let mut failures = 0;
        loop {
            let Err(error) = hear(&own, &channel, &heard, &mut failures).await;
            failures += 1;
            tracing::debug!(%error, channel, "the relay polls until PostgreSQL can be listened to");
            sleep(BACKOFF.delay(failures)).await;
        }
    }

    async fn hear(
        pool: &PgPool,
        channel: &str,
        heard: &Heard,
        failures: &mut u32,
    ) -> sqlx::Result<std::convert::Infallible> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        *failures = 0;
        loop {
            // What was said before it listened, or while the connection was lost, is not known.
            heard.rows.send_replace(());
            heard.released.send_replace(());
            while let Some(said) = listener.try_recv().await? {
                let told = match said.payload() {
                    RELEASED => &heard.released,
                    _ => &heard.rows,
                };
                told.send_replace(());
            }
        }
    }
}
