//! Streams, and the queues and topics that hold them.

use streams_core::{ErrorKind, Result, StreamName};

use crate::error::Problem;

/// A queue or a topic that there is.
#[derive(Debug)]
pub(crate) struct Place {
    /// The URL of a queue, the ARN of a topic.
    pub(crate) address: String,
    pub(crate) is_fifo: bool,
}

const FIFO: &str = ".fifo";
/// The end of the name of a FIFO stream's dead letters; FIFO queues need a FIFO queue for theirs.
const FIFO_DEAD_LETTERS: &str = ".fifo.dlq";
#[cfg(feature = "sqs")]
const DEAD_LETTERS: &str = "-dlq";
/// The longest name of a queue.
#[cfg(feature = "sqs")]
const LONGEST_QUEUE: usize = 80;
/// The longest name of a topic.
#[cfg(feature = "sns")]
const LONGEST_TOPIC: usize = 256;

/// The queue of a stream: its name with `-` for `.`, and `.fifo` behind it where it is one.
///
/// # Errors
/// [`ErrorKind::InvalidMessage`] for a name no queue can have.
#[cfg(feature = "sqs")]
pub(crate) fn queue_name(stream: &StreamName, fifo: bool) -> Result<String, Problem> {
    named(stream, fifo, LONGEST_QUEUE).ok_or(Problem::new(
        ErrorKind::InvalidMessage,
        "no queue can have the name of this stream; use letters, digits, `.`, `_` and `-`, 80 of them \
         at most",
    ))
}

/// The topic of a stream, named as its queue.
///
/// # Errors
/// [`ErrorKind::InvalidMessage`] for a name no topic can have.
#[cfg(feature = "sns")]
pub(crate) fn topic_name(stream: &StreamName, fifo: bool) -> Result<String, Problem> {
    named(stream, fifo, LONGEST_TOPIC).ok_or(Problem::new(
        ErrorKind::InvalidMessage,
        "no topic can have the name of this stream; use letters, digits, `.`, `_` and `-`, 256 of them \
         at most",
    ))
}

fn named(stream: &StreamName, fifo: bool, longest: usize) -> Option<String> {
    let name = stream.as_str();
    let (plain, is_fifo) = if let Some(plain) = name.strip_suffix(FIFO_DEAD_LETTERS) {
        (format!("{plain}.dlq"), true)
    } else if let Some(plain) = name.strip_suffix(FIFO) {
        (plain.to_owned(), true)
    } else {
        (name.to_owned(), fifo)
    };
    let mut result = plain.replace('.', "-");
    if is_fifo {
        result.push_str(FIFO);
    }
    let can_be = !plain.is_empty() && is_name(&plain) && result.len() <= longest;
    can_be.then_some(result)
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    name.bytes().all(allowed)
}

/// The queue of a group that reads a topic: `<topic>_<group>`, and `.fifo` behind it where it is one.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a name no queue can have.
#[cfg(all(feature = "sqs", feature = "sns"))]
pub(crate) fn group_queue(topic: &str, group: &str) -> Result<String, Problem> {
    let (plain, fifo) = match topic.strip_suffix(FIFO) {
        Some(plain) => (plain, FIFO),
        None => (topic, ""),
    };
    let queue = format!("{plain}_{}{fifo}", group.replace('.', "-"));
    if group.is_empty() || !is_name(group) || queue.len() > LONGEST_QUEUE {
        return Err(Problem::new(
            ErrorKind::InvalidConfig,
            "no queue can have the name of this stream and this group; use letters, digits, `.`, `_` \
             and `-` for both, 79 of them together at most",
        ));
    }
    Ok(queue)
}

/// Whether the queue of this name is FIFO.
pub(crate) fn is_fifo(queue: &str) -> bool {
    queue.ends_with(FIFO)
}

/// The queue of a queue's dead letters; those of dead letters have none.
#[cfg(feature = "sqs")]
pub(crate) fn dead_letters(queue: &str) -> Option<String> {
    let (plain, fifo) = match queue.strip_suffix(FIFO) {
        Some(plain) => (plain, FIFO),
        None => (queue, ""),
    };
    (!plain.ends_with(DEAD_LETTERS)).then(|| format!("{plain}{DEAD_LETTERS}{fifo}"))
}

#[cfg(all(test, feature = "sqs"))]
mod tests {
    use super::*;

    fn queue(stream: &str, fifo: bool) -> Result<String, Problem> {
        queue_name(&StreamName::new(stream).unwrap(), fifo)
    }

    #[test]
    fn dots_become_dashes_and_fifo_stays() {
        for (stream, fifo, expected) in [
            ("user.created", false, "user-created"),
            ("user.created.dlq", false, "user-created-dlq"),
            ("user.created.fifo", false, "user-created.fifo"),
            ("user.created.fifo.dlq", false, "user-created-dlq.fifo"),
            ("user.created", true, "user-created.fifo"),
            ("user.created.dlq", true, "user-created-dlq.fifo"),
            ("user.created.fifo", true, "user-created.fifo"),
        ] {
            assert_eq!(queue(stream, fifo).unwrap(), expected);
        }
    }

    #[test]
    fn dead_letters_are_those_of_the_stream_of_dead_letters() {
        for fifo in [false, true] {
            for stream in ["user.created", "user.created.fifo"] {
                let stream = StreamName::new(stream).unwrap();
                let queue = queue_name(&stream, fifo).unwrap();
                let dead = queue_name(&stream.dead_letters().unwrap(), fifo).unwrap();
                assert_eq!(dead_letters(&queue).as_ref(), Some(&dead));
                assert_eq!(dead_letters(&dead), None);
            }
        }
    }

    #[test]
    fn names_no_queue_can_have_are_refused() {
        let long = "n".repeat(81);
        for stream in ["a/b", "é", ".fifo", "a:b", &long] {
            let error = queue(stream, false).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidMessage, "{stream}");
        }
        assert!(queue(&"n".repeat(76), true).is_err());
        assert!(queue(&"n".repeat(75), true).is_ok());
    }

    #[cfg(feature = "sns")]
    #[test]
    fn a_group_has_a_queue_of_its_own() {
        let queue = |topic: &str, group: &str| group_queue(topic, group).ok();
        let of = |name: &str| Some(name.to_owned());
        assert_eq!(queue("user-created", "mailer"), of("user-created_mailer"));
        assert_eq!(queue("user.fifo", "the.mailer"), of("user_the-mailer.fifo"));
        for group in ["", "a b", "é", &"g".repeat(80)] {
            assert_eq!(queue("user", group), None);
        }
        let long = StreamName::new("n".repeat(81)).unwrap();
        assert!(topic_name(&long, false).is_ok());
        let too_long = StreamName::new("n".repeat(255)).unwrap();
        assert!(topic_name(&too_long, true).is_err());
    }
}
