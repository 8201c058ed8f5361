//! The application of a schedule: a bus whose handlers misbehave, and the checks at its end.

use std::time::Duration;

use streams_core::{
    Assignment, Backoff, Batch, Bus, Context, ErrorKind, FailurePolicy, HandlerError,
    HandlerResult, Message, Outcome, RunReport,
};

use crate::broker::Kind;
use crate::driver::driver;
use crate::partitions::Listener;
use crate::world::{Handling, World, outputs_of};

/// A schedule that takes longer is stuck.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Runs the schedule until every message is handled and settled.
pub(crate) async fn run(world: World) {
    let plan = world.plan.clone();
    for _ in 0..plan.restarts {
        let bus = start(&world).await;
        let pause = Duration::from_millis(world.lock().rng.u64(0..500));
        tokio::time::sleep(pause).await;
        let deadline = Duration::from_millis(world.lock().rng.u64(0..100));
        check(&world, &bus.shutdown(deadline).await);
    }
    let bus = start(&world).await;
    let done = async {
        while !world.lock().broker.all_done() {
            check_promises(&world);
            let activity = bus.activity();
            assert!(
                activity.in_flight <= plan.max_in_flight,
                "{plan:?}: {activity:?}, more than allowed"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(LONGEST, done).await;
    assert!(in_time.is_ok(), "{plan:?}: stuck at {:?}", bus.activity());
    check_promises(&world);
    let handled = world.lock().record.handled.len();
    assert_eq!(
        handled, plan.messages,
        "{plan:?}: some were settled and never handled"
    );
    check(&world, &bus.shutdown(Duration::from_secs(60)).await);
    if plan.exactly_once {
        world.lock().record.check_outputs(&plan);
    }
    check_promises(&world);
}

fn check_promises(world: &World) {
    let broken = world.lock().record.broken.clone();
    assert!(
        broken.is_none(),
        "{:?}: {}",
        world.plan,
        broken.unwrap_or_default()
    );
}

fn check(world: &World, report: &RunReport) {
    let ended = world.lock().record.partitions.all_ended();
    assert!(ended, "{:?}: partitions that have not ended", world.plan);
    for one in &report.subscriptions {
        let accounted = one.finished + one.given_back_to_retry + one.released + one.abandoned;
        assert_eq!(
            accounted, one.in_flight_at_shutdown,
            "{:?}: {one:?}",
            world.plan
        );
    }
}

/// Builds and starts a bus; one that meets a backend that is down tries again by itself.
async fn start(world: &World) -> Bus {
    let bus = Bus::builder(driver(world))
        .start_timeout(Duration::from_secs(3600))
        .build()
        .expect("a bus");
    let policy = FailurePolicy::default()
        .backoff(Backoff::new(Duration::from_millis(5), Duration::from_millis(500)).jitter(false))
        .max_attempts(Some(5));
    macro_rules! register {
        ($builder:expr) => {{
            let mut builder = $builder
                .group("g")
                .concurrency(world.plan.concurrency)
                .max_in_flight(world.plan.max_in_flight)
                .on_failure(policy)
                .reconnect(
                    Backoff::new(Duration::from_millis(5), Duration::from_millis(100))
                        .jitter(false),
                )
                .revoke_grace(Duration::from_millis(50));
            if world.plan.kind == Kind::Positional {
                builder = builder.on_partitions(Listener(world.clone()));
            }
            if world.plan.exactly_once {
                let interval = Duration::from_millis(world.lock().rng.u64(1..200));
                builder = builder.exactly_once().commit_interval(interval);
            }
            builder.register().expect("a subscription");
        }};
    }
    let its = world.clone();
    match world.plan.batch {
        None => register!(bus.subscribe_stream("model", move |message, context| {
            handle(its.clone(), message, context)
        })),
        Some(size) => register!(bus.subscribe_batch("model", size, move |batch| {
            handle_batch(its.clone(), batch)
        })),
    }
    bus.start().await.expect("started");
    bus
}

async fn handle(world: World, message: Message, context: Context) -> HandlerResult {
    let handling = begin(&world, &context);
    world.dawdle(Duration::from_millis(100)).await;
    publish(&world, &context, message).await?;
    let fails = world.chance(world.plan.handler_fails);
    if !fails {
        handling.done();
        return Ok(Outcome::Ack);
    }
    failure(&world)
}

/// A handler starts on a message, of a partition it has.
fn begin(world: &World, context: &Context) -> Handling {
    if world.plan.kind == Kind::Positional {
        let assignment = Assignment::of(context.id());
        let record = &mut world.lock().record;
        let ready = record.partitions.is_ready(assignment);
        record.expect(ready, || format!("a message of {assignment:?}"));
    }
    world.begin(context.message().id().as_str().parse().expect("our id"))
}

/// Publishes what comes of a message, where that is part of its transaction.
async fn publish(world: &World, context: &Context, message: Message) -> Result<(), HandlerError> {
    if !world.plan.exactly_once {
        return Ok(());
    }
    let number = message.id().as_str().parse().expect("our id");
    for part in 0..outputs_of(number) {
        let output = Message::builder("out")
            .header("of", message.id().as_str())
            .data(vec![part as u8]);
        context.publisher().write(&[output.build()?]).await?;
        world.dawdle(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn failure(world: &World) -> HandlerResult {
    let (which, delay) = {
        let rng = &mut world.lock().rng;
        (rng.u8(0..6), Duration::from_millis(rng.u64(0..5_000)))
    };
    match which {
        0 => Err(HandlerError::new("fails")),
        1 => Err(HandlerError::unrecoverable("fails for good")),
        2 => Ok(Outcome::retry_after(delay)),
        3 => Ok(Outcome::Release),
        4 => Ok(Outcome::dead_letter("as asked")),
        _ => {
            // Without the hook's output, which would bury a real failure.
            std::panic::resume_unwind(Box::new("as asked"));
        }
    }
}

async fn handle_batch(world: World, batch: Batch) -> streams_core::BatchOutcome {
    let fits = !batch.is_empty() && batch.len() <= world.plan.batch.unwrap_or(1);
    world
        .lock()
        .record
        .expect(fits, || format!("a batch of {}", batch.len()));
    let handlings: Vec<_> = batch.iter().map(|context| begin(&world, context)).collect();
    for context in &batch {
        publish(&world, context, context.message().clone())
            .await
            .expect("collected");
    }
    world.dawdle(Duration::from_millis(100)).await;
    let mut failed = Vec::new();
    batch
        .iter()
        .zip(handlings)
        .map(|(context, handling)| {
            if context
                .message()
                .key()
                .is_some_and(|key| failed.contains(key))
            {
                // Its turn comes after the one that failed.
                return Err(HandlerError::new("not yet"));
            }
            if world.chance(world.plan.handler_fails) {
                failed.extend(context.message().key().cloned());
                return Err(HandlerError::new(streams_core::Error::new(
                    ErrorKind::Other,
                    "fails",
                )));
            }
            handling.done();
            Ok(Outcome::Ack)
        })
        .collect()
}
