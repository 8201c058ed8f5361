//! The consumer of a subscription, on a thread of its own.
//!
//! The thread serves the client: rebalances, commits, statistics, errors. Messages do not pass
//! through it (see `partitions.rs`), so it is never late, however slow handlers are, and
//! `max.poll.interval.ms` is kept by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use streams_core::{Error, ErrorKind, Result, StartFrom};
use tokio::sync::oneshot;

use crate::callbacks::Callbacks;
use crate::config::DRIVER;
use crate::control::{Command, SeekTo};
use crate::error::error;
use crate::shared::{Event, Shared};
use crate::start::resolve;

/// How long the thread waits for the client at a time; commits and commands may come meanwhile.
const POLL: Duration = Duration::from_millis(100);
/// How long the client may take to move to another position.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the thread. It ends when the subscription is closed; `ended` is answered then.
pub(crate) fn start(
    consumer: BaseConsumer<Callbacks>,
    ended: oneshot::Sender<()>,
) -> Result<Arc<BaseConsumer<Callbacks>>> {
    let consumer = Arc::new(consumer);
    let callbacks = consumer.context().clone();
    callbacks.tie(&consumer);
    let theirs = consumer.clone();
    std::thread::Builder::new()
        .name(format!("kafka {}", callbacks.shared.stream))
        .spawn(move || {
            serve(&consumer, &callbacks);
            callbacks.commit(&consumer, None, CommitMode::Sync);
            callbacks.forget_gauges();
            // What nobody took holds the consumer too.
            let left = callbacks.shared.lock().take_left();
            drop(left);
            // Dropping the last handle leaves the group, and waits for that.
            drop(consumer);
            let _ = ended.send(());
        })
        .map_err(|source| {
            Error::new(
                ErrorKind::Unavailable,
                "cannot start the thread that serves the consumer; raise the limit of threads",
            )
            .driver(DRIVER)
            .source(source)
        })?;
    Ok(theirs)
}

fn serve(consumer: &Arc<BaseConsumer<Callbacks>>, callbacks: &Callbacks) {
    let shared = &callbacks.shared;
    let interval = match shared.plan.commit_interval {
        Duration::ZERO => POLL, // only what a failed settle has left
        interval => interval,
    };
    let mut committed = Instant::now();
    loop {
        let command = {
            let mut state = shared.lock();
            if state.closing {
                return;
            }
            state.commands.pop_front()
        };
        if let Some(command) = command {
            carry_out(consumer, callbacks, command);
            continue;
        }
        let wait = interval
            .saturating_sub(committed.elapsed())
            .clamp(Duration::from_millis(1), POLL);
        match consumer.poll(wait) {
            None => {}
            Some(Ok(_)) => {
                // A message that came before its partition's queue was split. There is none: the
                // queues are split before partitions are assigned.
                tracing::error!(stream = %shared.stream, "a message came past its partition's queue");
                debug_assert!(false, "a message came past its partition's queue");
            }
            Some(Err(source)) => {
                if let Some(error) = fatal(&source) {
                    let error = error.with("stream", &shared.stream);
                    shared.tell(&mut shared.lock(), Event::Failed(error));
                }
            }
        }
        if committed.elapsed() >= interval && !callbacks.is_committing() {
            committed = Instant::now();
            callbacks.commit(consumer, None, CommitMode::Async);
        }
    }
}

/// The error that ends the subscription, if this one does: the client mends most by itself.
pub(crate) fn fatal(source: &KafkaError) -> Option<Error> {
    let ends = matches!(source, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            source.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::FencedInstanceId
            )
        );
    ends.then(|| error(source, "receive"))
}

/// Carries out what the control asks for.
fn carry_out(consumer: &Arc<BaseConsumer<Callbacks>>, callbacks: &Callbacks, command: Command) {
    let shared = &callbacks.shared;
    let topic = shared.stream.as_str();
    match command {
        Command::Seek {
            partition,
            to,
            done,
        } => {
            let held = shared.held(&[partition]);
            if held.is_empty() {
                let _ = done.send(Err(not_held(partition)));
                return;
            }
            // As if the partition went and came back elsewhere: what was fetched of it is dropped.
            shared.release(held);
            callbacks.commit(consumer, Some(&[partition]), CommitMode::Sync);
            shared.forget(&[partition]);
            let sought = seek(consumer, topic, partition, to);
            shared.assign(consumer, &[partition]);
            if let Err(error) = &sought {
                // What was fetched is dropped, and the client did not move: only opening it anew
                // brings that back.
                shared.fail("seeking failed", error);
            }
            let _ = done.send(sought);
        }
        Command::Pause { partitions, done } => {
            let _ = done.send(each_held(shared, &partitions, "pause", |list| {
                consumer.pause(list)
            }));
        }
        Command::Resume { partitions, done } => {
            let _ = done.send(each_held(shared, &partitions, "resume", |list| {
                consumer.resume(list)
            }));
        }
    }
}

fn seek(consumer: &BaseConsumer<Callbacks>, topic: &str, partition: u32, to: SeekTo) -> Result<()> {
    // To an offset in any case: the client looks up where the ends are only after it has said that
    // it is there, and then a second seek may come between.
    let start = match to {
        SeekTo::Beginning => StartFrom::Earliest,
        SeekTo::End => StartFrom::Latest,
        SeekTo::Offset(offset) => StartFrom::Position(offset.to_string()),
    };
    let resolved = resolve(consumer, topic, &[partition], &start, SEEK_TIMEOUT)?;
    for element in resolved.elements() {
        consumer
            .seek(topic, element.partition(), element.offset(), SEEK_TIMEOUT)
            .map_err(|source| error(&source, "seek").with("partition", partition))?;
    }
    Ok(())
}

fn each_held(
    shared: &Shared,
    partitions: &[u32],
    doing: &'static str,
    act: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>,
) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        if shared.held(&[*partition]).is_empty() {
            return Err(not_held(*partition));
        }
        let number = i32::try_from(*partition).unwrap_or(i32::MAX);
        list.add_partition(shared.stream.as_str(), number);
    }
    act(&list).map_err(|source| error(&source, doing))
}

pub(crate) fn not_held(partition: u32) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "the subscription does not hold this partition; see `KafkaControl::partitions` for those \
         it holds",
    )
    .driver(DRIVER)
    .with("partition", partition)
}
