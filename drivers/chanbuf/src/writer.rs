//! Writing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use streams_core::{
    Capabilities, Error, Message, MessageId, Result, Scheduled, StreamName, WriteError, Writer,
    async_trait,
};
use tokio::sync::Notify;

use crate::Broker;
use crate::config::Config;
use crate::refused::{Refused, closed_writer};
use crate::stream::Stream;
use crate::transaction::{RefusedBy, Streams};

pub(crate) struct ChanbufWriter {
    broker: Arc<Broker>,
    writes: Writes,
}

impl ChanbufWriter {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            writes: Writes::default(),
        }
    }

    fn config(&self) -> &Config {
        &self.broker.config
    }

    /// Writes messages of one stream; says how many were written before it was refused.
    async fn write_run(&self, stream: &Stream, run: &[Message]) -> Result<(), (usize, Refused)> {
        let mut written = 0;
        let result = if stream.waits() {
            tokio::select! {
                biased;
                result = stream.write_waiting(run, &mut written) => result,
                () = self.writes.abandoned() => Err(Refused::Closed),
            }
        } else {
            stream.write(run).map(|count| written = count)
        };
        match result {
            Ok(()) if written == run.len() => Ok(()),
            Ok(()) => Err((written, Refused::Full)),
            Err(refused) => Err((written, refused)),
        }
    }
}

impl ChanbufWriter {
    /// Waits for room in one stream, and ends too when another has none. It holds the turn of one
    /// stream at a time: with more, writers of the others would wait for this one's.
    async fn write_when_room(
        &self,
        streams: &Streams,
        full: &Stream,
        batch: &[Message],
    ) -> Result<(), RefusedBy> {
        let attempt = || match streams.write(batch) {
            Err((stream, Refused::Full)) if stream.name == full.name => None,
            result => Some(result),
        };
        tokio::select! {
            biased;
            result = full.wait_for_room(attempt) => result,
            () = self.writes.abandoned() => Err((streams.handle(&full.name), Refused::Closed)),
        }
    }
}

fn result_of(failures: Vec<(usize, Error)>) -> Result<(), WriteError> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(WriteError::new(failures))
    }
}

fn all_closed(batch: &[Message]) -> Result<(), WriteError> {
    if batch.is_empty() {
        return Ok(());
    }
    Err(WriteError::all(batch.len(), closed_writer))
}

#[async_trait]
impl Writer for ChanbufWriter {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let Some(_begun) = self.writes.begin() else {
            return all_closed(batch);
        };
        let mut failures = Vec::new();
        let mut refused: Vec<(Arc<Stream>, Refused)> = Vec::new();
        // Runs of messages that are written together: of one stream, none refused in between.
        let mut start = 0;
        while start < batch.len() {
            if !self.config().is_fit(&batch[start]) {
                failures.push((start, self.config().unfit(&batch[start])));
                start += 1;
                continue;
            }
            let name = batch[start].stream();
            let same =
                |message: &&Message| message.stream() == name && self.config().is_fit(message);
            let end = start + batch[start..].iter().take_while(same).count();
            let stream = self.broker.stream(name);
            // Once one of a stream is refused, so is what follows it there: written now, it would
            // be ahead of what is tried again.
            let before = refused.iter().find(|(other, _)| other.name == *name);
            let result = match before {
                Some((_, why)) => Err((0, *why)),
                None => self.write_run(&stream, &batch[start..end]).await,
            };
            if let Err((written, why)) = result {
                let failed = start + written..end;
                failures.extend(failed.map(|index| (index, stream.error(why))));
                refused.push((stream, why));
            }
            start = end;
        }
        for (stream, _) in refused.drain(..) {
            self.broker.forget_unused(&stream);
        }
        result_of(failures)
    }

    fn try_write(&self, batch: &[Message]) -> Option<Result<(), WriteError>> {
        let first = batch.first()?;
        let plain =
            |message: &Message| message.stream() == first.stream() && self.config().is_fit(message);
        if self.writes.is_closed() || !batch.iter().all(plain) {
            return None;
        }
        match self.broker.existing(first.stream())?.try_write(batch) {
            Ok(true) => Some(Ok(())),
            Ok(false) | Err(_) => None,
        }
    }

    async fn write_at(&self, batch: &[Message], due: SystemTime) -> Result<(), WriteError> {
        if self.writes.is_closed() {
            return all_closed(batch);
        }
        let mut failures = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            if !self.config().is_fit(message) {
                failures.push((index, self.config().unfit(message)));
                continue;
            }
            let stream = self.broker.stream(message.stream());
            if let Err(why) = stream.schedule(message.clone(), due) {
                failures.push((index, stream.error(why)));
                self.broker.forget_unused(&stream);
            }
        }
        result_of(failures)
    }

    async fn cancel(&self, stream: &StreamName, id: &MessageId) -> Result<bool> {
        if self.writes.is_closed() {
            return Err(closed_writer());
        }
        let Some(stream) = self.broker.existing(stream) else {
            return Ok(false);
        };
        let cancelled = stream.cancel(id);
        self.broker.forget_unused(&stream);
        Ok(cancelled)
    }

    async fn scheduled(&self, stream: &StreamName, limit: usize) -> Result<Vec<Scheduled>> {
        if self.writes.is_closed() {
            return Err(closed_writer());
        }
        let stream = self.broker.existing(stream);
        Ok(stream.map_or_else(Vec::new, |stream| stream.scheduled(limit)))
    }

    /// Waits for room as [`write`](Writer::write) does, for all of the batch at once.
    async fn write_in_transaction(&self, batch: &[Message]) -> Result<()> {
        let Some(_begun) = self.writes.begin() else {
            return Err(closed_writer());
        };
        if let Some(index) = batch
            .iter()
            .position(|message| !self.config().is_fit(message))
        {
            return Err(self.config().unfit(&batch[index]).with("index", index));
        }
        let streams = Streams::of(&self.broker, batch.iter().map(Message::stream));
        let mut result = streams.write(batch);
        while let Err((full, Refused::Full)) = &result
            && full.waits()
            && full.can_ever_hold(batch)
        {
            result = self.write_when_room(&streams, full, batch).await;
        }
        let result = result.map_err(|(stream, why)| {
            let first = batch.iter().position(|m| *m.stream() == stream.name);
            let error = stream.error(why).with("index", first.unwrap_or_default());
            // Waiting does not help one that is too large for the stream.
            let retryable = error.is_retryable() && stream.can_ever_hold(batch);
            error.retryable(retryable)
        });
        streams.forget_unused(&self.broker);
        result
    }

    async fn flush(&self) -> Result<()> {
        self.writes.wait().await;
        Ok(())
    }

    /// Waits for the writes that wait for room. Dropped before they have it, it makes them fail.
    async fn close(&self) -> Result<()> {
        self.writes.close().await;
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.broker.capabilities
    }
}

/// The writes of a writer that have begun and not ended, and whether more may begin.
#[derive(Default)]
struct Writes {
    closed: AtomicBool,
    begun: Mutex<Begun>,
    ended: Notify,
    abandoned: AtomicBool,
    abandon: Notify,
}

#[derive(Default)]
struct Begun {
    next: u64,
    open: Vec<u64>,
}

/// A write that has begun. It ends when this is dropped.
struct Write<'a> {
    writes: &'a Writes,
    number: u64,
}

impl Writes {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a write, unless closed.
    fn begin(&self) -> Option<Write<'_>> {
        let mut begun = self.lock();
        if self.is_closed() {
            return None;
        }
        let number = begun.next;
        begun.next += 1;
        begun.open.push(number);
        Some(Write {
            writes: self,
            number,
        })
    }

    /// Waits until all that have begun so far have ended.
    async fn wait(&self) {
        let until = self.lock().next;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.lock().open.iter().all(|number| *number >= until) {
                return;
            }
            ended.await;
        }
    }

    async fn close(&self) {
        struct Closing<'a>(&'a Writes);
        impl Drop for Closing<'_> {
            fn drop(&mut self) {
                self.0.abandoned.store(true, Ordering::Release);
                self.0.abandon.notify_waiters();
            }
        }
        {
            // Under the lock, so that none begins that is not waited for.
            let _begun = self.lock();
            self.closed.store(true, Ordering::Release);
        }
        let _closing = Closing(self);
        self.wait().await;
    }

    /// Waits until nobody waits any longer for writes to end.
    async fn abandoned(&self) {
        let mut abandon = std::pin::pin!(self.abandon.notified());
        abandon.as_mut().enable();
        if !self.abandoned.load(Ordering::Acquire) {
            abandon.await;
        }
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.writes.lock().open.retain(|other| *other != number);
        self.writes.ended.notify_waiters();
    }
}
