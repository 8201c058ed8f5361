//! Whether the relay works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::destination::Destination;
use crate::source::Source;

/// How long the database may take to answer.
const LONGEST: Duration = Duration::from_secs(2);

/// What `/readyz` asks. Clones are one.
#[derive(Clone)]
pub(crate) struct Status(Arc<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    destination: Arc<Destination>,
    stopping: AtomicBool,
}

impl Status {
    pub(crate) fn new(source: Arc<dyn Source>, destination: Arc<Destination>) -> Self {
        Self(Arc::new(Inner {
            source,
            destination,
            stopping: AtomicBool::new(false),
        }))
    }

    /// It is ready no more.
    pub(crate) fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// What is the matter, if it is not ready. The program ends when the relay does, so the relay is
    /// active or stands by.
    pub(crate) async fn readiness(&self) -> Result<(), String> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err("the relay stops".to_owned());
        }
        match tokio::time::timeout(LONGEST, self.0.source.check()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("the database: {error}")),
            Err(_) => return Err(format!("the database did not answer in {LONGEST:?}")),
        }
        match self.0.destination.down() {
            None => Ok(()),
            Some(why) => Err(format!("the destination takes nothing: {why}")),
        }
    }
}
