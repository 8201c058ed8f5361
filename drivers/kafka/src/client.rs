//! A client of the library whose events are served by a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig};

/// How soon the thread sees that it is to end. Events it gets at once.
const WAKE: Duration = Duration::from_millis(100);

/// A producer, or a client that only asks, which the library takes for one. Its logs, errors and
/// delivery reports go to its context on a thread of its own. That thread ends, and throws away what
/// is still on its way, soon after the last clone is dropped, which does not block.
pub(crate) struct Client<C: ProducerContext + 'static> {
    producer: Option<Arc<BaseProducer<C>>>,
    ends: Arc<Ends>,
}

/// Tells the thread when the last clone is gone.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<C: ProducerContext + 'static> Client<C> {
    /// Starts a client. It connects by itself, and again whenever it has to.
    pub(crate) fn start(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let producer: BaseProducer<C> = config.create_with_context(context)?;
        let producer = Arc::new(producer);
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(Ends(ended.clone()));
        let served = producer.clone();
        thread::Builder::new()
            .name("streams-kafka".to_owned())
            .spawn(move || {
                while !ended.load(Ordering::Acquire) {
                    served.poll(WAKE);
                    if served.client().fatal_error().is_some() {
                        // It sends nothing more: those who wait need not wait for their timeouts.
                        served.purge(PurgeConfig::default().queue().inflight());
                    }
                }
            })
            .map_err(|error| KafkaError::ClientCreation(format!("no thread: {error}")))?;
        Ok(Self {
            producer: Some(producer),
            ends,
        })
    }

    pub(crate) fn producer(&self) -> &Arc<BaseProducer<C>> {
        match &self.producer {
            Some(producer) => producer,
            None => unreachable!("it is taken when this is dropped"),
        }
    }
}

impl<C: ProducerContext + 'static> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self {
            producer: self.producer.clone(),
            ends: self.ends.clone(),
        }
    }
}

impl<C: ProducerContext + 'static> Drop for Client<C> {
    fn drop(&mut self) {
        // Before the thread is told, so that it is the thread that has the last, whose end blocks.
        self.producer = None;
    }
}
