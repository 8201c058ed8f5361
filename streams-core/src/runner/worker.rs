//! Workers: long-lived tasks that poll a handler's future in place, message after message.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::time::{Instant, timeout_at};

use super::dispatcher::{After, Again, Done, Verdict, Work};
use super::shared::{Chunk, Next, Shared};
use super::verdict;
use crate::handler::{ContextParts, catch_panic};
use crate::{
    Batch, Context, Error, ErrorKind, Handler, HandlerError, HandlerResult, Input, Message, Outcome,
};

/// Starts workers. This is where a handler's type is erased: once for each worker, not for each
/// message.
pub(crate) trait Workers: Send + Sync + 'static {
    /// The worker's whole life.
    fn run(&self, shared: Arc<Shared>, worker: u16) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Workers that handle one message at a time.
pub(crate) struct SingleWorkers<H>(pub(crate) Arc<H>);

/// Workers that handle batches of at most this size.
pub(crate) struct BatchWorkers<H>(pub(crate) Arc<H>, pub(crate) NonZeroUsize);

impl<H: Handler<Context>> Workers for SingleWorkers<H> {
    fn run(&self, shared: Arc<Shared>, worker: u16) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(run_single(shared, self.0.clone(), worker))
    }
}

impl<H: Handler<Batch>> Workers for BatchWorkers<H> {
    fn run(&self, shared: Arc<Shared>, worker: u16) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(run_batches(shared, self.0.clone(), worker, self.1.get()))
    }
}

async fn run_single<H: Handler<Context>>(shared: Arc<Shared>, handler: Arc<H>, worker: u16) {
    let nothing = placeholder();
    let mut context = Context::new(
        shared.info.clone(),
        shared.cancel_cell(worker),
        nothing.clone(),
        ContextParts::NONE,
    );
    let exactly_once = shared.exactly_once();
    let mut chunk = Chunk::FIRST;
    let mut suspended = false;
    let mut started = Instant::now();
    loop {
        match shared.next_chunk(worker, chunk, std::mem::take(&mut suspended), started) {
            Next::Work => {}
            Next::Wait => {
                // An idle worker keeps no message alive.
                context.renew(nothing.clone(), ContextParts::NONE, 0);
                shared.wait_for_work().await;
                started = Instant::now();
                continue;
            }
            Next::Stop => return,
        }
        let mut done = None;
        while let Some((work, generation)) = shared.step(worker, done.take()) {
            let Work {
                index,
                message,
                mut parts,
            } = work;
            if let Some(timeout) = shared.settings.handler_timeout {
                parts.deadline = Some(Instant::now() + timeout);
            }
            context.renew(message, parts, generation);
            if exactly_once {
                context.collect_outputs();
            }
            let result = {
                let mut handling = pin!(handle(&*handler, &context, context.deadline()));
                match first_poll(handling.as_mut()).await {
                    Poll::Ready(result) => result,
                    Poll::Pending => {
                        shared.suspend(worker);
                        suspended = true;
                        handling.await
                    }
                }
            };
            let mut outputs = Vec::new();
            if exactly_once {
                outputs = context.take_outputs();
            }
            let verdict = match verdict::at_once(&result, &context, &shared.settings) {
                Some(verdict) => verdict,
                None => {
                    if !std::mem::replace(&mut suspended, true) {
                        shared.suspend(worker);
                    }
                    verdict::dead_letter(&result, &context, &mut outputs, &shared).await
                }
            };
            let ended_well = is_final(verdict);
            let this = Done {
                index,
                verdict,
                after: after(verdict, &context, &result, outputs),
            };
            if ended_well {
                done = Some(this);
            } else {
                shared.finish(worker, [this]);
            }
        }
        let ended = Instant::now();
        chunk = chunk.next((!suspended).then(|| ended - started));
        started = ended;
    }
}

async fn run_batches<H: Handler<Batch>>(
    shared: Arc<Shared>,
    handler: Arc<H>,
    worker: u16,
    size: usize,
) {
    let nothing = placeholder();
    let mut first = Context::new(
        shared.info.clone(),
        shared.cancel_cell(worker),
        nothing.clone(),
        ContextParts::NONE,
    );
    let exactly_once = shared.exactly_once();
    let chunk = Chunk {
        max: size,
        share: true,
    };
    let mut works = Vec::new();
    let mut batch = Batch::default();
    let mut suspended = false;
    loop {
        match shared.next_chunk(
            worker,
            chunk,
            std::mem::take(&mut suspended),
            Instant::now(),
        ) {
            Next::Work => {}
            Next::Wait => {
                shared.wait_for_work().await;
                continue;
            }
            Next::Stop => return,
        }
        let generation = shared.start_batch(worker, &mut works);
        first.renew(nothing.clone(), ContextParts::NONE, generation);
        let deadline = shared
            .settings
            .handler_timeout
            .map(|timeout| Instant::now() + timeout);
        let mut indices = Vec::with_capacity(works.len());
        for Work {
            index,
            message,
            mut parts,
        } in works.drain(..)
        {
            parts.deadline = deadline;
            indices.push(index);
            let mut context = first.sibling(message, parts);
            if exactly_once {
                context.collect_outputs();
            }
            batch.contexts_mut().push(context);
        }
        let mut output = {
            let mut handling = pin!(handle(&*handler, &batch, deadline));
            match first_poll(handling.as_mut()).await {
                Poll::Ready(output) => output,
                Poll::Pending => {
                    shared.suspend(worker);
                    suspended = true;
                    handling.await
                }
            }
        };
        output.fit(batch.len());
        let mut outputs: Vec<_> = batch.iter().map(Context::take_outputs).collect();
        let mut verdicts = Vec::with_capacity(batch.len());
        let results = Batch::results(&mut output).iter();
        for ((context, result), outputs) in batch.iter().zip(results).zip(&mut outputs) {
            let verdict = match verdict::at_once(result, context, &shared.settings) {
                Some(verdict) => verdict,
                None => {
                    if !std::mem::replace(&mut suspended, true) {
                        shared.suspend(worker);
                    }
                    verdict::dead_letter(result, context, outputs, &shared).await
                }
            };
            let outputs = std::mem::take(outputs);
            verdicts.push((verdict, after(verdict, context, result, outputs)));
        }
        let done = in_order(&shared, &batch, indices, verdicts);
        batch.contexts_mut().clear();
        shared.finish(worker, done);
    }
}

/// The verdicts on a batch, such that an item that is to be handled again takes the later ones of
/// its key with it: they come again behind it.
fn in_order(
    shared: &Shared,
    batch: &Batch,
    indices: Vec<u32>,
    verdicts: Vec<(Verdict, After)>,
) -> Vec<Done> {
    let mut held = VecDeque::new();
    let mut failed: Vec<(&Context, Verdict)> = Vec::new();
    let mut done = Vec::with_capacity(indices.len());
    for ((context, index), (verdict, after)) in batch.iter().zip(indices).zip(verdicts) {
        let ordering = shared.settings.ordering;
        let ahead = failed
            .iter()
            .any(|(earlier, _)| verdict::same_lane(ordering, earlier, context));
        if ahead {
            held.push_back(Work {
                index,
                message: context.message().clone(),
                parts: context.parts().clone(),
            });
            continue;
        }
        if !is_final(verdict) {
            failed.push((context, verdict));
        }
        done.push(Done {
            index,
            verdict,
            after,
        });
    }
    if !held.is_empty() {
        let mut pool = shared.lock();
        pool.dispatcher.give_back(&mut held);
    }
    done
}

fn is_final(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Ack | Verdict::DeadLettered)
}

/// What goes on with a message, beside its verdict.
fn after(
    verdict: Verdict,
    context: &Context,
    result: &HandlerResult,
    outputs: Vec<Message>,
) -> After {
    if !is_final(verdict) {
        // A retry begins anew: what was published is dropped.
        After::Again(again(context, result))
    } else if outputs.is_empty() {
        After::Nothing
    } else {
        After::Written(outputs)
    }
}

fn again(context: &Context, result: &HandlerResult) -> Again {
    let failed = result.is_err()
        || matches!(
            result,
            Ok(Outcome::Retry { .. } | Outcome::DeadLetter { .. })
        );
    Again {
        message: context.message().clone(),
        metadata: context.parts().metadata.clone(),
        failed_at: failed.then(|| context.clock().now()),
    }
}

/// Runs a handler to its end, its panic or its deadline.
async fn handle<I: Input, H: Handler<I>>(
    handler: &H,
    input: &I,
    deadline: Option<Instant>,
) -> I::Output {
    let running = catch_panic(|| handler.handle(input));
    let ended = match deadline {
        None => running.await,
        Some(deadline) => match timeout_at(deadline, running).await {
            Ok(ended) => ended,
            Err(_) => {
                return input.output(|_| {
                    Err(HandlerError::new(Error::new(
                        ErrorKind::Timeout,
                        "the handler took longer than its timeout; it was stopped and is tried again",
                    )))
                });
            }
        },
    };
    match ended {
        Ok(output) => output,
        // A panic in a layer: those of handler closures are caught further in.
        Err(panic) => input.output(|_| Err(HandlerError::panic(&*panic))),
    }
}

async fn first_poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn placeholder() -> Message {
    match Message::builder("none").build_received() {
        Ok(message) => message,
        Err(error) => unreachable!("the name is valid: {error}"),
    }
}
