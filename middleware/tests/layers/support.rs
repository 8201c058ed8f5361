//! What the tests share.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use streams_core::{
    Batch, BatchOutcome, Capabilities, Context, Error, ErrorKind, Handler, HandlerResult, Message,
    Result, WriteError, Writer, async_trait, batch_fn, message_fn,
};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

pub(crate) fn message(data: &'static str) -> Message {
    Message::builder("orders")
        .key("k")
        .header("secret", "hidden")
        .data(data)
        .build()
        .unwrap()
}

pub(crate) fn delivery() -> Context {
    Context::for_test(message("x"))
}

/// A batch of messages with these data.
pub(crate) fn batch(data: &[&'static str]) -> Batch {
    Batch::for_test(data.iter().map(|data| Context::for_test(message(data))))
}

pub(crate) fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "down for a moment")
}

pub(crate) fn poison() -> Error {
    Error::new(ErrorKind::Codec, "not JSON")
}

/// A handler of single messages that answers by the message's data.
pub(crate) fn single(
    answer: impl Fn(&str) -> HandlerResult + Send + Sync + 'static,
) -> impl Handler {
    let answer = Arc::new(answer);
    message_fn(move |message: Message, _| {
        let answer = answer.clone();
        async move { answer(text(&message)) }
    })
}

/// A batch handler that answers the same way, item by item.
pub(crate) fn batched(
    answer: impl Fn(&str) -> HandlerResult + Send + Sync + 'static,
) -> impl Handler<Batch> {
    let answer = Arc::new(answer);
    batch_fn(move |batch: Batch| {
        let answer = answer.clone();
        async move {
            batch
                .iter()
                .map(|item| answer(text(item.message())))
                .collect::<BatchOutcome>()
        }
    })
}

pub(crate) fn text(message: &Message) -> &str {
    std::str::from_utf8(message.data()).unwrap()
}

/// A shared counter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn take(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

type Refuse = dyn Fn(usize, &str) -> Option<Error> + Send + Sync;

/// A writer that keeps what it is given, except what `fail` refuses by call (from 1) and data.
pub(crate) struct Kept {
    pub(crate) written: Mutex<Vec<Message>>,
    pub(crate) calls: Count,
    fail: Box<Refuse>,
}

impl Kept {
    pub(crate) fn new() -> Arc<Self> {
        Self::failing(|_, _| None)
    }

    pub(crate) fn failing(
        fail: impl Fn(usize, &str) -> Option<Error> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            written: Mutex::default(),
            calls: Count::default(),
            fail: Box::new(fail),
        })
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.written.lock().unwrap().clone()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.messages()
            .iter()
            .map(|message| text(message).to_owned())
            .collect()
    }
}

static KEPT: Capabilities = Capabilities::none("kept");

#[async_trait]
impl Writer for Kept {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let call = self.calls.add();
        let mut failures = Vec::new();
        for (index, message) in batch.iter().enumerate() {
            match (self.fail)(call, text(message)) {
                Some(error) => failures.push((index, error)),
                None => self.written.lock().unwrap().push(message.clone()),
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(WriteError::new(failures))
        }
    }

    async fn write_at(&self, batch: &[Message], _: SystemTime) -> Result<(), WriteError> {
        self.write(batch).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &KEPT
    }
}

/// An event or a new span, as logged.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) level: tracing::Level,
    pub(crate) target: &'static str,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Logged {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// What is logged on this thread while the guard lives.
pub(crate) struct Log {
    events: Arc<Mutex<Vec<Logged>>>,
    spans: Arc<Mutex<Vec<Logged>>>,
    _guard: DefaultGuard,
}

impl Log {
    pub(crate) fn capture(level: LevelFilter) -> Self {
        let capture = Capture::default();
        let (events, spans) = (capture.events.clone(), capture.spans.clone());
        let subscriber = tracing_subscriber::registry().with(level).with(capture);
        Self {
            events,
            spans,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// The events of one module of this crate.
    pub(crate) fn events(&self, module: &str) -> Vec<Logged> {
        let target = format!("streams_middleware::{module}");
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|e| e.target == target)
            .cloned()
            .collect()
    }

    pub(crate) fn spans(&self) -> Vec<Logged> {
        self.spans.lock().unwrap().clone()
    }
}

#[derive(Default)]
struct Capture {
    events: Arc<Mutex<Vec<Logged>>>,
    spans: Arc<Mutex<Vec<Logged>>>,
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.events.lock().unwrap().push(Logged {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            fields: fields.0,
        });
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut fields = Fields(BTreeMap::new());
        attributes.record(&mut fields);
        self.spans.lock().unwrap().push(Logged {
            level: *attributes.metadata().level(),
            target: attributes.metadata().target(),
            fields: fields.0,
        });
    }
}
