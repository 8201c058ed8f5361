//! Every message written and every message that arrived: the one place that says whether any was
//! lost, came twice, came out of order or came altered.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use streams_core::{Key, Message, MessageId, Order};
use tokio::sync::Notify;

use crate::failure::{Checked, Failure};
use crate::lock::lock;

/// What a case allows. Loss, alteration and messages that nobody wrote never are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    duplicates: usize,
    order: Order,
}

impl Budget {
    /// Each message once, in any order.
    pub(crate) const ONCE: Self = Self {
        duplicates: 0,
        order: Order::None,
    };

    /// Allows that many messages too many, in all.
    pub(crate) const fn duplicates(self, duplicates: usize) -> Self {
        Self { duplicates, ..self }
    }

    /// Asks for the order written, looking at when each first arrived.
    pub(crate) const fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }
}

/// What was written and what arrived.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sent: HashMap<MessageId, Sent>,
    per_key: HashMap<Option<Key>, usize>,
    /// Of each key, the numbers of its messages as they first arrived.
    order: HashMap<Option<Key>, Vec<usize>>,
    /// The numbers of all messages as they first arrived.
    order_of_all: Vec<usize>,
    missing: usize,
    unknown: Vec<MessageId>,
    altered: Vec<String>,
}

#[derive(Debug)]
struct Sent {
    message: Message,
    /// Its number within its key.
    number: usize,
    /// Its number among all.
    position: usize,
    arrived: usize,
}

impl Ledger {
    /// A ledger of messages that are going to be written, in this order.
    pub(crate) fn of(messages: &[Message]) -> Self {
        let ledger = Self::default();
        ledger.wrote(messages);
        ledger
    }

    /// Adds messages that are going to be written.
    pub(crate) fn wrote(&self, messages: &[Message]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for message in messages {
            let position = state.sent.len();
            let next = state.per_key.entry(message.key().cloned()).or_default();
            let sent = Sent {
                message: message.clone(),
                number: *next,
                position,
                arrived: 0,
            };
            *next += 1;
            if state.sent.insert(message.id().clone(), sent).is_none() {
                state.missing += 1;
            }
        }
    }

    /// A message has arrived.
    pub(crate) fn arrived(&self, message: &Message) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match state.sent.get_mut(message.id()) {
            None => state.unknown.push(message.id().clone()),
            Some(sent) => {
                sent.arrived += 1;
                if sent.arrived == 1 {
                    state.missing -= 1;
                    state
                        .order
                        .entry(message.key().cloned())
                        .or_default()
                        .push(sent.number);
                    state.order_of_all.push(sent.position);
                }
                if sent.message != *message {
                    state.altered.push(difference(&sent.message, message));
                }
            }
        }
        drop(guard);
        self.changed.notify_waiters();
    }

    /// How many have not arrived.
    pub(crate) fn missing(&self) -> usize {
        self.lock().missing
    }

    /// How many have arrived, each counted once.
    pub(crate) fn distinct(&self) -> usize {
        let state = self.lock();
        state.sent.len() - state.missing
    }

    /// Waits until all have arrived or nothing more has for `patience`. Says nothing: the verdict
    /// does.
    pub(crate) async fn settled(&self, patience: Duration) {
        self.until(patience, || self.missing() == 0).await;
    }

    /// Waits until so many different ones have arrived, however slowly; whether they have before
    /// nothing more did for `patience`.
    pub(crate) async fn reached(&self, count: usize, patience: Duration) -> bool {
        self.until(patience, || self.distinct() >= count).await
    }

    async fn until(&self, patience: Duration, holds: impl Fn() -> bool) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds() {
                return true;
            }
            if tokio::time::timeout(patience, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Whether what arrived is within the budget; if not, all that is wrong.
    pub(crate) fn check(&self, budget: Budget) -> Checked {
        let state = self.lock();
        let mut wrong = String::new();
        let mut note = |count: usize, what: &str, examples: &mut dyn Iterator<Item = String>| {
            let separator = if wrong.is_empty() { "" } else { "; " };
            let examples: Vec<_> = examples.take(3).collect();
            let _ = write!(wrong, "{separator}{count} {what}: {}", examples.join(", "));
        };
        if state.missing > 0 {
            let mut lost: Vec<_> = state
                .sent
                .values()
                .filter(|sent| sent.arrived == 0)
                .collect();
            lost.sort_by_key(|sent| sent.number);
            let what = format!("of {} lost", state.sent.len());
            note(
                state.missing,
                &what,
                &mut lost.iter().map(|sent| name(&sent.message, sent.number)),
            );
        }
        let again = |sent: &&Sent| sent.arrived > 1;
        let duplicates: usize = state
            .sent
            .values()
            .filter(again)
            .map(|sent| sent.arrived - 1)
            .sum();
        if duplicates > budget.duplicates {
            let what = format!("duplicates where {} are allowed", budget.duplicates);
            let mut examples = state.sent.values().filter(again).map(|sent| {
                format!(
                    "{} {} times",
                    name(&sent.message, sent.number),
                    sent.arrived
                )
            });
            note(duplicates, &what, &mut examples);
        }
        if !state.unknown.is_empty() {
            let mut examples = state.unknown.iter().map(ToString::to_string);
            note(
                state.unknown.len(),
                "arrived that should not",
                &mut examples,
            );
        }
        if !state.altered.is_empty() {
            note(
                state.altered.len(),
                "altered",
                &mut state.altered.iter().cloned(),
            );
        }
        let disorder: Vec<_> = match budget.order {
            Order::None => Vec::new(),
            Order::PerStream => falls(&state.order_of_all).collect(),
            _ => {
                let of_key = |(key, numbers): (&Option<Key>, &Vec<usize>)| {
                    let falls: Vec<_> = falls(numbers)
                        .map(|fall| format!("key {key:?}: {fall}"))
                        .collect();
                    falls
                };
                state.order.iter().flat_map(of_key).collect()
            }
        };
        if !disorder.is_empty() {
            note(
                disorder.len(),
                "out of order",
                &mut disorder.iter().cloned(),
            );
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(wrong))
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Where the numbers fall.
fn falls(numbers: &[usize]) -> impl Iterator<Item = String> {
    let falls = numbers.windows(2).filter(|pair| pair[0] > pair[1]);
    falls.map(|pair| format!("#{} after #{}", pair[1], pair[0]))
}

fn name(message: &Message, number: usize) -> String {
    match message.key() {
        Some(key) => format!("#{number} of key {key:?}"),
        None => format!("#{number}"),
    }
}

/// What differs between what was written and what arrived.
fn difference(sent: &Message, got: &Message) -> String {
    let what = if sent.stream() != got.stream() {
        format!("stream {:?} became {:?}", sent.stream(), got.stream())
    } else if sent.key() != got.key() {
        format!("key {:?} became {:?}", sent.key(), got.key())
    } else if sent.headers() != got.headers() {
        format!("headers {:?} became {:?}", sent.headers(), got.headers())
    } else if sent.content_type() != got.content_type() {
        format!(
            "content type {} became {}",
            sent.content_type(),
            got.content_type()
        )
    } else if sent.data() != got.data() {
        let (a, b) = (sent.data(), got.data());
        match a.iter().zip(b).position(|(a, b)| a != b) {
            Some(at) => format!("data of {} bytes differs at byte {at}", a.len()),
            None => format!("data of {} bytes became {}", a.len(), b.len()),
        }
    } else {
        format!("time {:?} became {:?}", sent.time(), got.time())
    };
    format!("{}: {what}", sent.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        (0..4)
            .map(|i| {
                Message::builder("s")
                    .key(format!("k{}", i % 2))
                    .data(vec![i])
                    .build()
                    .unwrap()
            })
            .collect()
    }

    fn reason(ledger: &Ledger, budget: Budget) -> String {
        ledger
            .check(budget)
            .map_or_else(|failure| failure.to_string(), |()| String::new())
    }

    #[test]
    fn exact_arrival_is_within_every_budget() {
        let messages = messages();
        let ledger = Ledger::of(&messages);
        messages.iter().for_each(|message| ledger.arrived(message));
        assert_eq!(reason(&ledger, Budget::ONCE.order(Order::PerKey)), "");
    }

    #[test]
    fn each_fault_is_named() {
        let messages = messages();
        let ledger = Ledger::of(&messages);
        ledger.arrived(&messages[2]);
        ledger.arrived(&messages[0]);
        ledger.arrived(&messages[0]);
        ledger.arrived(&messages[1].to_builder().data("other").build().unwrap());
        ledger.arrived(&Message::builder("s").data("foreign").build().unwrap());
        let reason = reason(&ledger, Budget::ONCE.order(Order::PerKey));
        for part in [
            "1 of 4 lost: #1 of key \"k1\"",
            "1 duplicates where 0 are allowed: #0 of key \"k0\" 2 times",
            "1 arrived that should not",
            "1 altered",
            "1 out of order: key Some(\"k0\"): #0 after #1",
        ] {
            assert!(reason.contains(part), "`{part}` is not in `{reason}`");
        }
    }

    #[test]
    fn order_of_a_whole_stream_is_more_than_that_of_its_keys() {
        let messages = messages();
        let ledger = Ledger::of(&messages);
        [1, 0, 2, 3]
            .iter()
            .for_each(|at| ledger.arrived(&messages[*at]));
        assert_eq!(reason(&ledger, Budget::ONCE.order(Order::PerKey)), "");
        assert!(reason(&ledger, Budget::ONCE.order(Order::PerStream)).contains("#0 after #1"));
    }

    #[test]
    fn duplicates_within_the_budget_pass_and_a_repeat_is_no_disorder() {
        let messages = messages();
        let ledger = Ledger::of(&messages);
        messages
            .iter()
            .chain(&messages[..1])
            .for_each(|message| ledger.arrived(message));
        assert_eq!(
            reason(&ledger, Budget::ONCE.duplicates(1).order(Order::PerKey)),
            ""
        );
    }
}
