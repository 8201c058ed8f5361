//! Dead letters: the copy that is written, and the way back.

use std::time::SystemTime;

use crate::message::unix_millis;
use crate::{Context, Error, ErrorKind, HandlerError, Message, Result, StreamName};

/// Names of the headers a dead letter carries beside the message's own.
pub mod headers {
    /// Why it was given up: the outermost error, or the handler's reason.
    pub const REASON: &str = "streams-dlq-reason";
    /// The error and all its causes.
    pub const ERROR_CHAIN: &str = "streams-dlq-error-chain";
    /// How often it was tried, in decimal.
    pub const ATTEMPTS: &str = "streams-dlq-attempts";
    /// When it first failed, in Unix milliseconds.
    pub const FIRST_FAILURE: &str = "streams-dlq-first-failure";
    /// When it last failed, in Unix milliseconds.
    pub const LAST_FAILURE: &str = "streams-dlq-last-failure";
    /// The stream it came from.
    pub const STREAM: &str = "streams-dlq-stream";
    /// Its id there.
    pub const ID: &str = "streams-dlq-id";
    /// The consumer group that gave it up.
    pub const GROUP: &str = "streams-dlq-group";

    /// Set where the message had no data, which writers refuse: the dead letter has the reason for
    /// data. The value is the content type the message had.
    pub const EMPTY: &str = "streams-dlq-empty";

    /// Of a message that was [brought back](super::redrive): when it had failed last. A backend that drops
    /// what has the id of an earlier message tells it from that by this.
    pub const REDRIVEN: &str = "streams-redriven";

    pub(super) const ALL: [&str; 9] = [
        REASON,
        ERROR_CHAIN,
        ATTEMPTS,
        FIRST_FAILURE,
        LAST_FAILURE,
        STREAM,
        ID,
        GROUP,
        EMPTY,
    ];
}

/// Why a message is given up.
#[derive(Debug, Clone, Copy)]
pub enum DeadLetterReason<'a> {
    /// The handler said so.
    Asked(&'a str),
    /// It failed for good.
    Failed(&'a HandlerError),
}

/// The copy of a delivery's message for the dead letters of its stream: same id, key, data and
/// time, and [headers] that tell the story. One without data gets the reason for data.
///
/// # Errors
/// [`InvalidMessage`](ErrorKind::InvalidMessage) when the stream's name is too long to take `.dlq`.
pub fn dead_letter(context: &Context, reason: DeadLetterReason<'_>) -> Result<Message> {
    dead_letter_to(context, reason, context.message().stream().dead_letters()?)
}

/// As [`dead_letter`], to a stream of your choice.
///
/// # Errors
/// None today beyond those of building a message.
pub fn dead_letter_to(
    context: &Context,
    reason: DeadLetterReason<'_>,
    stream: StreamName,
) -> Result<Message> {
    let message = context.message();
    let now = context.clock().now();
    let (reason, chain) = match reason {
        DeadLetterReason::Asked(reason) => (reason.to_owned(), reason.to_owned()),
        DeadLetterReason::Failed(error) => (error.to_string(), error.chain()),
    };
    let millis = |time: SystemTime| unix_millis(time).to_string();
    let mut all = message.headers().clone();
    all.insert(headers::REASON, one_line(&reason));
    all.insert(headers::ERROR_CHAIN, one_line(&chain));
    all.insert(headers::ATTEMPTS, context.attempt().to_string());
    all.insert(
        headers::FIRST_FAILURE,
        millis(context.first_failure().unwrap_or(now)),
    );
    all.insert(headers::LAST_FAILURE, millis(now));
    all.insert(headers::STREAM, message.stream().as_str());
    all.insert(headers::ID, message.id().as_str());
    all.insert(headers::GROUP, context.group().unwrap_or(""));
    let mut dead_letter = message.to_builder().stream(stream);
    if message.data().is_empty() {
        all.insert(headers::EMPTY, message.content_type().as_str());
        dead_letter = dead_letter
            .content_type("text/plain")
            .data(match one_line(&reason) {
                reason if reason.is_empty() => "no reason was given".to_owned(),
                reason => reason,
            });
    }
    dead_letter.headers(all).build_received()
}

/// Error texts may be long and have line breaks, which some backends refuse in headers.
fn one_line(text: &str) -> String {
    const LIMIT: usize = 1024;
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LIMIT)
        .collect();
    if text.chars().nth(LIMIT).is_some() {
        line.push('…');
    }
    line
}

/// The message to write to bring a dead letter back to the stream it came from: with its own id,
/// without the dead-letter headers, and with [`headers::REDRIVEN`].
///
/// # Errors
/// [`InvalidMessage`](ErrorKind::InvalidMessage) when it is no dead letter.
pub fn redrive(dead_letter: &Message) -> Result<Message> {
    let Some(stream) = dead_letter.headers().get_str(headers::STREAM) else {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            format!(
                "the message has no header `{}`, so it is no dead letter; redrive only what was \
                 read from a `.dlq` stream",
                headers::STREAM
            ),
        )
        .with("id", dead_letter.id()));
    };
    let mut rest = dead_letter.headers().clone();
    for name in headers::ALL {
        rest.remove(name);
    }
    if let Some(failed) = dead_letter.headers().get(headers::LAST_FAILURE) {
        rest.insert(headers::REDRIVEN, failed.to_vec());
    }
    let mut message = dead_letter.to_builder().stream(stream).headers(rest);
    if let Some(content_type) = dead_letter.headers().get_str(headers::EMPTY) {
        message = message.content_type(content_type).data("");
    }
    message.build_received()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_tells_its_story_and_comes_back_unchanged() {
        let message = Message::builder("orders")
            .key("k")
            .header("tenant", "acme")
            .data("x")
            .build()
            .unwrap();
        let context = Context::for_test(message.clone()).with_attempt(3);
        let cause = Error::new(ErrorKind::Unavailable, "line\nbreak");
        let error = HandlerError::new(Error::new(ErrorKind::Other, "outer").source(cause));
        let dead = dead_letter(&context, DeadLetterReason::Failed(&error)).unwrap();
        assert_eq!(dead.stream(), &"orders.dlq");
        assert_eq!(dead.id(), message.id());
        let get = |name| dead.headers().get_str(name);
        assert_eq!(get(headers::REASON), Some("outer"));
        assert_eq!(get(headers::ERROR_CHAIN), Some("outer: line break"));
        assert_eq!(get(headers::ATTEMPTS), Some("3"));
        assert_eq!(get(headers::GROUP), Some("test"));
        assert_eq!(get("tenant"), Some("acme"));
        assert_eq!(came_back(&dead), message);
        assert!(redrive(&message).is_err());
    }

    /// What is brought back, without the header that says so.
    fn came_back(dead: &Message) -> Message {
        let back = redrive(dead).unwrap();
        let mut rest = back.headers().clone();
        assert_eq!(
            rest.get(headers::REDRIVEN),
            dead.headers().get(headers::LAST_FAILURE)
        );
        assert!(rest.remove(headers::REDRIVEN));
        back.to_builder().headers(rest).build_received().unwrap()
    }

    /// Writers refuse messages without data: its dead letter could never be written, and the message
    /// would be tried for ever.
    #[test]
    fn the_dead_letter_of_a_message_without_data_has_some() {
        let message = Message::builder("orders").build_received().unwrap();
        let context = Context::for_test(message.clone());
        let dead = dead_letter(&context, DeadLetterReason::Asked("nothing in it")).unwrap();
        assert_eq!(&dead.data()[..], b"nothing in it");
        assert_eq!(came_back(&dead), message);
        let dead = dead_letter(&context, DeadLetterReason::Asked("")).unwrap();
        assert!(!dead.data().is_empty());
    }
}
