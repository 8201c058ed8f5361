//! What the driver tells `tracing`.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Has a test that fails show what the driver said.
pub(crate) fn logged() {
    // The client's own threads write past what a test shows, so that only problems are shown of it.
    let shown = |event: &Metadata<'_>| {
        event.target() != "streams_kafka::context" || *event.level() <= Level::WARN
    };
    let show = tracing_subscriber::fmt::layer().with_test_writer();
    let _ = tracing_subscriber::registry()
        .with(LevelFilter::DEBUG)
        .with(show.with_filter(filter_fn(shown)))
        .with(Listeners)
        .try_init();
}

static LISTENERS: Mutex<Vec<Arc<Mutex<String>>>> = Mutex::new(Vec::new());

/// All that is told from now on, by whichever test. A line for each event.
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    pub(crate) fn listen() -> Self {
        logged();
        let log = Self(Arc::default());
        LISTENERS.lock().unwrap().push(log.0.clone());
        log
    }

    /// Whether an event has all of these texts.
    pub(crate) fn has(&self, texts: &[&str]) -> bool {
        let log = self.0.lock().unwrap();
        log.lines()
            .any(|line| texts.iter().all(|text| line.contains(text)))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.lock().unwrap();
        listeners.retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

struct Listeners;

impl<S: Subscriber> Layer<S> for Listeners {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let listeners = LISTENERS.lock().unwrap();
        if listeners.is_empty() {
            return;
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        for listener in &*listeners {
            let mut log = listener.lock().unwrap();
            log.push_str(&line.0);
            log.push('\n');
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}
