//! The handler that writes what was read of a stream to the destination.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, counter};
use streams_core::{
    Backoff, Batch, BatchOutcome, Context, Error, ErrorKind, HandlerError, HandlerResult, Outcome,
    StreamName, WriteError, Writer,
};
use streams_sql::metrics::{FAILURES, MESSAGES};
use tokio::time::{Instant, timeout};

/// As the relay of an outbox: when nothing of what it writes is taken, and all errors may go away, the
/// destination is down, and everything waits; no attempt is counted. Otherwise the messages that failed
/// are at fault, and the runner tries them again.
pub(super) struct Forward {
    destination: Arc<dyn Writer>,
    bytes: usize,
    /// How long one write may take.
    limit: Duration,
    backoff: Backoff,
    down: Mutex<Down>,
    failed: Arc<AtomicU64>,
    messages: Counter,
    failures: Counter,
}

/// Since when the destination takes nothing.
#[derive(Default)]
struct Down {
    /// How often it was tried.
    times: u32,
    /// It is not tried before.
    until: Option<Instant>,
}

impl Forward {
    pub(super) fn new(
        stream: &StreamName,
        destination: Arc<dyn Writer>,
        bytes: usize,
        limit: Duration,
        backoff: Backoff,
        failed: Arc<AtomicU64>,
    ) -> Self {
        Self {
            destination,
            bytes,
            limit,
            backoff,
            down: Mutex::default(),
            failed,
            messages: counter!(MESSAGES, "stream" => stream.to_string()),
            failures: counter!(FAILURES, "stream" => stream.to_string()),
        }
    }

    /// Writes a batch, in parts that are not too large.
    pub(super) async fn batch(&self, batch: &Batch) -> BatchOutcome {
        let mut results = Vec::with_capacity(batch.len());
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let (part, others) = rest.split_at(self.fitting(rest));
            match self.wait() {
                Some(wait) => results.extend(part.iter().map(|_| Ok(Outcome::postpone(wait)))),
                None => results.extend(self.write(part).await),
            }
            rest = others;
        }
        results.into_iter().collect()
    }

    /// How many of the first are written together: one at least.
    fn fitting(&self, contexts: &[Context]) -> usize {
        let mut bytes = 0_usize;
        let fits = |context: &&Context| {
            bytes = bytes.saturating_add(context.message().size());
            bytes <= self.bytes
        };
        contexts.iter().take_while(fits).count().max(1)
    }

    async fn write(&self, contexts: &[Context]) -> Vec<HandlerResult> {
        let messages: Vec<_> = contexts.iter().map(|one| one.message().clone()).collect();
        let written = timeout(self.limit, self.destination.write(&messages)).await;
        let written = written.unwrap_or_else(|_| Err(unanswered(messages.len())));
        let failures = written.map_or_else(WriteError::into_failures, |()| Vec::new());
        self.messages
            .increment((contexts.len() - failures.len()) as u64);
        self.failures.increment(failures.len() as u64);
        self.failed
            .fetch_add(failures.len() as u64, Ordering::Relaxed);

        // What failed before while others were written is at fault, also when it is tried alone.
        let is_new = |context: &Context| context.first_failure().is_none();
        if failures.len() == contexts.len()
            && failures.iter().all(|(_, error)| error.is_retryable())
            && contexts.iter().any(is_new)
        {
            let wait = self.is_down(&failures[0].1);
            return contexts
                .iter()
                .map(|_| Ok(Outcome::postpone(wait)))
                .collect();
        }
        *self.lock() = Down::default();
        let mut results: Vec<HandlerResult> = contexts.iter().map(|_| Ok(Outcome::Ack)).collect();
        for (index, error) in failures {
            results[index] = Err(HandlerError::new(error));
        }
        results
    }

    /// How long to wait yet, while the destination is down.
    fn wait(&self) -> Option<Duration> {
        let left = self.lock().until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// It took nothing: returns how long to wait now.
    fn is_down(&self, error: &Error) -> Duration {
        let mut down = self.lock();
        down.times = down.times.saturating_add(1);
        let delay = self.backoff.delay(down.times);
        down.until = Instant::now().checked_add(delay);
        tracing::warn!(%error, ?delay, "the destination takes nothing; the relay waits");
        delay
    }

    fn lock(&self) -> MutexGuard<'_, Down> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unanswered(count: usize) -> WriteError {
    WriteError::all(count, || {
        let problem = "the destination did not confirm in time; raise `relay.lease`, of which one \
                       write may take half, or lower `relay.rows` and `relay.bytes`";
        Error::new(ErrorKind::Timeout, problem).operation("write")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use streams_chanbuf::Chanbuf;
    use streams_core::{
        Bus, Capabilities, Driver as _, FailurePolicy, Message, ReadOptions, Result, async_trait,
    };

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2));

    /// Takes each message after so many refusals, and remembers what it was given.
    #[derive(Default)]
    struct Fussy {
        refuses: Mutex<HashMap<&'static str, u32>>,
        given: Mutex<Vec<Vec<String>>>,
        hangs: Mutex<u32>,
    }

    impl Fussy {
        fn given(&self) -> Vec<String> {
            let given = self.given.lock().unwrap();
            given.iter().map(|ids| ids.join(" ")).collect()
        }
    }

    #[async_trait]
    impl Writer for Fussy {
        async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
            let id = |message: &Message| message.id().to_string();
            self.given
                .lock()
                .unwrap()
                .push(batch.iter().map(id).collect());
            let left = self.hangs.lock().unwrap().checked_sub(1);
            if let Some(left) = left {
                *self.hangs.lock().unwrap() = left;
                std::future::pending::<()>().await;
            }
            let mut refuses = self.refuses.lock().unwrap();
            let refused = batch.iter().enumerate().filter_map(|(index, message)| {
                let left = refuses.get_mut(message.id().as_str())?;
                *left = left.checked_sub(1)?;
                Some((index, Error::new(ErrorKind::Unavailable, "later")))
            });
            let refused: Vec<_> = refused.collect();
            match refused.is_empty() {
                true => Ok(()),
                false => Err(WriteError::new(refused)),
            }
        }

        async fn flush(&self) -> Result<()> {
            Ok(())
        }

        async fn close(&self) -> Result<()> {
            Ok(())
        }

        fn capabilities(&self) -> &Capabilities {
            unreachable!("nobody asks")
        }
    }

    /// Forwards messages of these ids, each its own key, until none is left; how many went to the dead
    /// letters.
    async fn forward(ids: &[&str], bytes: usize, destination: &Arc<Fussy>) -> u64 {
        let driver = Chanbuf::new();
        let name = StreamName::new("a").unwrap();
        let forward = Forward::new(
            &name,
            destination.clone(),
            bytes,
            Duration::from_secs(5),
            BACKOFF,
            Arc::default(),
        );
        let forward = Arc::new(forward);
        let bus = Bus::new(driver.clone());
        bus.subscribe_batch("a", 100, move |batch: Batch| {
            let forward = forward.clone();
            async move { forward.batch(&batch).await }
        })
        .group("g")
        .concurrency(1)
        .on_failure(FailurePolicy::default().max_attempts(Some(3)))
        .register()
        .unwrap();
        // Somebody holds the dead letters.
        let dead = ReadOptions::new("a.dlq").unwrap().group("g").unwrap();
        let _dead = driver.reader().subscribe(&dead).await.unwrap();
        bus.start().await.unwrap();
        let message = |id: &&str| {
            let message = Message::builder("a").id(streams_core::MessageId::new(*id).unwrap());
            message.key(*id).data("0123456789").build().unwrap()
        };
        let messages: Vec<_> = ids.iter().map(message).collect();
        driver.writer().write(&messages).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3600)).await; // of a clock that is not real
        assert_eq!(bus.activity().in_flight, 0);
        let report = bus.shutdown(Duration::from_secs(1)).await;
        report.subscriptions[0].dead_lettered
    }

    fn refusing(refuses: &[(&'static str, u32)]) -> Arc<Fussy> {
        Arc::new(Fussy {
            refuses: Mutex::new(refuses.iter().copied().collect()),
            ..Fussy::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_is_taken_all_wait_and_no_attempt_is_counted() {
        let fussy = refusing(&[("1", 20), ("2", 20)]);
        assert_eq!(forward(&["1", "2"], 1 << 20, &fussy).await, 0);
        assert_eq!(fussy.given(), ["1 2"; 21]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_while_others_are_taken_is_set_aside() {
        let fussy = refusing(&[("1", 1000)]);
        assert_eq!(forward(&["1", "2"], 1 << 20, &fussy).await, 1);
        assert_eq!(fussy.given(), ["1 2", "1", "1"], "alone it is at fault too");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_are_as_large_as_is_allowed() {
        let fussy = Arc::new(Fussy::default());
        let size = Message::builder("a").id(streams_core::MessageId::new("1").unwrap());
        let size = size.key("1").data("0123456789").build().unwrap().size();
        forward(&["1", "2", "3", "4", "5"], 2 * size, &fussy).await;
        assert_eq!(fussy.given(), ["1 2", "3 4", "5"]);
        let fussy = Arc::new(Fussy::default());
        forward(&["1", "2"], 1, &fussy).await;
        assert_eq!(fussy.given(), ["1", "2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_is_given_up_and_the_rest_is_not_tried_before_the_wait_is_over() {
        let fussy = refusing(&[]);
        *fussy.hangs.lock().unwrap() = 2;
        assert_eq!(forward(&["1", "2"], 1, &fussy).await, 0);
        assert_eq!(fussy.given(), ["1", "1", "1", "2"]);
    }
}
