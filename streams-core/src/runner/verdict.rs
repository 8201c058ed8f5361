//! From a handler's result to what becomes of the message.

use std::time::Duration;

use super::dispatcher::Verdict;
use super::settings::{Ordering, RunSettings};
use super::shared::Shared;
use crate::dead_letter::{DeadLetterReason, dead_letter as letter};
use crate::{Context, HandlerResult, Message, Outcome, writer};

/// A retry is never at once: that would be a hot loop.
const SHORTEST_RETRY: Duration = Duration::from_millis(1);

/// The verdict, unless the message goes to the dead letters.
pub(crate) fn at_once(
    result: &HandlerResult,
    context: &Context,
    settings: &RunSettings,
) -> Option<Verdict> {
    let policy = &settings.failure;
    match result {
        Ok(Outcome::Ack) => Some(Verdict::Ack),
        Ok(Outcome::Release) => Some(Verdict::Release),
        Ok(Outcome::Postpone { after }) => Some(Verdict::Postpone((*after).max(SHORTEST_RETRY))),
        Ok(Outcome::Retry { after }) => Some(retry(context, settings, *after)),
        Ok(Outcome::DeadLetter { .. }) => {
            let possible = policy.dead_letters && !context.message().stream().is_dead_letters();
            (!possible).then(|| retry(context, settings, None))
        }
        Err(error) => {
            let attempts_used = policy
                .max_attempts
                .is_some_and(|max| context.attempt() >= max);
            let give_up = error.is_unrecoverable() || error.is_exhausted() || attempts_used;
            let possible = policy.dead_letters && !context.message().stream().is_dead_letters();
            if give_up && possible {
                return None;
            }
            tracing::debug!(
                stream = %context.stream(), id = %context.message().id(), attempt = context.attempt(),
                error = %error, "handling failed; it will be tried again"
            );
            Some(retry(context, settings, error.delay()))
        }
    }
}

fn retry(context: &Context, settings: &RunSettings, after: Option<Duration>) -> Verdict {
    let delay = after.unwrap_or_else(|| settings.failure.backoff.delay(context.attempt()));
    Verdict::Retry(delay.max(SHORTEST_RETRY))
}

/// Writes the dead letter. The message is acknowledged only when that is confirmed. Where deliveries
/// have transactions of their own, the dead letter takes the place of what the handler published.
pub(crate) async fn dead_letter(
    result: &HandlerResult,
    context: &Context,
    outputs: &mut Vec<Message>,
    shared: &Shared,
) -> Verdict {
    let reason = match result {
        Ok(Outcome::DeadLetter { reason }) => DeadLetterReason::Asked(reason),
        Err(error) => DeadLetterReason::Failed(error),
        Ok(_) => return Verdict::Ack,
    };
    let write = async {
        let copy = letter(context, reason)?;
        if let Some(fit) = context.check_output(&copy) {
            outputs.clear();
            outputs.push(copy);
            return fit;
        }
        let writer = context.publisher().writer().clone();
        writer::write(&*writer, &[copy])
            .await
            .map_err(crate::Error::from)
    };
    let (stream, id, attempts) = (context.stream(), context.message().id(), context.attempt());
    match write.await {
        Ok(()) => {
            tracing::warn!(%stream, %id, attempts, ?reason, "message given up: it goes to the dead letters");
            Verdict::DeadLettered
        }
        Err(error) => {
            tracing::error!(
                %stream, %id, attempts, error = %error,
                "the dead letter cannot be written; the message stays unacknowledged and is tried again"
            );
            retry(context, &shared.settings, None)
        }
    }
}

/// Whether two messages are handled in order.
pub(crate) fn same_lane(ordering: Ordering, a: &Context, b: &Context) -> bool {
    match ordering {
        Ordering::None => false,
        Ordering::Stream => a.id().partition == b.id().partition,
        Ordering::PerKey => match (a.message().key(), b.message().key()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
    }
}
