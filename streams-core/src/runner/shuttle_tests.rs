//! The pool of workers under shuttle, which decides at each lock who goes on. A wake-up that is lost
//! shows as a deadlock, a message handled twice or out of order by the checks.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p streams-core --lib shuttle`

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use shuttle::sync::Mutex;
use tokio::time::Instant;

use super::settings::RunSettings;
use super::shared::{FetcherWaits, Shared};
use super::worker::{BatchWorkers, SingleWorkers, Workers};
use crate::handler::SubscriptionInfo;
use crate::{
    AckToken, Batch, Capabilities, Clock, Context, Delivery, Handler, HandlerResult, Message,
    Outcome, Publisher, StreamName,
};

const MESSAGES: u64 = 9;
const DRIVER: Capabilities = Capabilities::none("shuttle");

/// Handles some messages at once and lets others go first in the middle of some.
#[derive(Default)]
struct Application {
    handled: Mutex<Vec<u64>>,
}

impl Application {
    async fn one(&self, context: &Context) -> HandlerResult {
        let sequence = context.id().sequence;
        if sequence % 3 == 0 {
            shuttle::future::yield_now().await;
        }
        self.handled.lock().unwrap().push(sequence);
        Ok(Outcome::Ack)
    }
}

impl Handler for Application {
    async fn handle(&self, context: &Context) -> HandlerResult {
        self.one(context).await
    }
}

impl Handler<Batch> for Application {
    async fn handle(&self, batch: &Batch) -> crate::BatchOutcome {
        let mut results = Vec::new();
        for context in batch {
            results.push(self.one(context).await);
        }
        results.into_iter().collect()
    }
}

fn delivery(sequence: u64) -> Delivery {
    let mut message = Message::builder("s").data("x");
    // Three keys, and some without.
    if sequence % 4 < 3 {
        message = message.key(&[(sequence % 4) as u8][..]);
    }
    Delivery::new(message.build().unwrap(), AckToken::new(0, 0, sequence))
}

/// The fetcher's part: it fetches where there is room, settles, and sleeps only when it has said what
/// for.
async fn fetch(shared: &Arc<Shared>) {
    let mut next = 0;
    let mut settled = 0;
    let mut settlements = Vec::new();
    while settled < MESSAGES as usize {
        let room = {
            let mut pool = shared.lock();
            pool.dispatcher.take_settlements(&mut settlements);
            pool.dispatcher.room()
        };
        settled += settlements.len();
        settlements.clear();
        let mut fetched: Vec<_> = (next..MESSAGES).take(room.min(4)).map(delivery).collect();
        next += fetched.len() as u64;
        if !fetched.is_empty() {
            shared.push(&mut fetched, Instant::now());
            continue;
        }
        if settled == MESSAGES as usize {
            break;
        }
        {
            let mut pool = shared.lock();
            if pool.dispatcher.unsettled() > 0 {
                continue;
            }
            pool.fetcher_waits = FetcherWaits {
                asleep: true,
                settlements: true,
                room: (next < MESSAGES).then_some(1),
                until: None,
                drain: false,
            };
        }
        shared.fetcher.notified().await;
        shared.lock().fetcher_waits = FetcherWaits::default();
    }
}

fn explore(workers: fn(Arc<Application>) -> Arc<dyn Workers>, batch_size: usize) {
    let schedule = move || {
        let application = Arc::new(Application::default());
        let info = SubscriptionInfo {
            stream: StreamName::from_static("s").unwrap(),
            group: None,
            publisher: Publisher::noop(),
            driver: "shuttle",
            clock: Clock::system(),
            transactional: None,
        };
        let settings = RunSettings {
            concurrency: 3,
            max_in_flight: 5,
            batch_size,
            ..RunSettings::default()
        };
        let shared = Shared::new(
            settings,
            &DRIVER,
            Arc::new(info),
            workers(application.clone()),
        );
        shuttle::future::block_on(async {
            fetch(&shared).await;
            shared.stop(Instant::now());
        });
        let handled = application.handled.lock().unwrap();
        let mut sorted = handled.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..MESSAGES).collect::<Vec<_>>(), "each once");
        let mut last = HashMap::new();
        for sequence in handled.iter().filter(|sequence| *sequence % 4 < 3) {
            let before = last.insert(sequence % 4, *sequence);
            assert!(
                before.is_none_or(|before| before < *sequence),
                "{handled:?}"
            );
        }
    };
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let schedules = number("STREAMS_SHUTTLE_SCHEDULES").unwrap_or(5_000);
    shuttle::check_random(schedule, schedules);
    shuttle::check_pct(schedule, schedules, 3);
}

#[test]
fn single_handlers() {
    explore(|application| Arc::new(SingleWorkers(application)), 1);
}

#[test]
fn batch_handlers() {
    explore(
        |application| {
            Arc::new(BatchWorkers(
                application,
                NonZeroUsize::MIN.saturating_add(2),
            ))
        },
        3,
    );
}
