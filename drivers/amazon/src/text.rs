//! What SQS and SNS take as text, and as names of attributes.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use streams_core::Message;
use streams_core::dead_letter::headers;

/// The longest name of an attribute.
const LONGEST_NAME: usize = 256;
/// The longest group or deduplication id.
const LONGEST_ID: usize = 128;

/// Whether it can be a body or the value of an attribute: not empty, and of the characters that XML
/// has.
pub(crate) fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_xml)
}

fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// Whether an attribute can have this name.
pub(crate) fn is_attribute_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let starts_with = |prefix: &str| {
        let start = name.as_bytes().get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.bytes().all(allowed)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !starts_with("aws.")
        && !starts_with("amazon.")
}

/// The same JSON, with characters escaped that SQS refuses.
pub(crate) fn sendable_json(json: String) -> String {
    if json.contains(['\u{fffe}', '\u{ffff}']) {
        // They can only stand inside of strings, where the escape means the same.
        let json = json.replace('\u{fffe}', "\\ufffe");
        json.replace('\u{ffff}', "\\uffff")
    } else {
        json
    }
}

/// A group or deduplication id: the text itself where SQS takes it, else its hash.
pub(crate) fn id_of(bytes: &[u8]) -> Cow<'_, str> {
    let fits = (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(bytes) {
        Ok(text) if fits => Cow::Borrowed(text),
        _ => {
            let hash = Sha256::digest(bytes);
            let hex = hash.iter().map(|byte| format!("{byte:02x}"));
            Cow::Owned(format!("sha256:{}", hex.collect::<String>()))
        }
    }
}

/// By what a FIFO queue or topic knows a message that it has already: its id. What failed is written
/// under the same id to the dead letters, each time it fails, and back from there; then the time of
/// the failure belongs to it, or it would be dropped.
pub(crate) fn deduplication_id(message: &Message) -> String {
    let id = message.id().as_str();
    let header = |name| message.headers().get_str(name);
    match header(headers::LAST_FAILURE).or_else(|| header(headers::REDRIVEN)) {
        Some(failed) => id_of(format!("{id}@{failed}").as_bytes()).into_owned(),
        None => id_of(id.as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_xml_has() {
        for good in [
            "a",
            " ",
            "a\tb\r\nc",
            "株式会社 🦀",
            "\u{d7ff}\u{e000}\u{fffd}",
            "\u{7f}",
        ] {
            assert!(is_sendable(good), "{good:?}");
        }
        for bad in ["", "a\0b", "\u{1}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            assert!(!is_sendable(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_are_what_sqs_documents() {
        for good in ["a", "A-b_c.d", "Awsome", "x.aws", &"n".repeat(256)] {
            assert!(is_attribute_name(good), "{good:?}");
        }
        let too_long = "n".repeat(257);
        for bad in [
            "", " ", "a b", "é", ".a", "a.", "a..b", "aws.x", "AWS.x", "Amazon.x", "a/b", &too_long,
        ] {
            assert!(!is_attribute_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_hashed_only_where_they_must_be() {
        assert_eq!(id_of(b"user-17"), "user-17");
        let long = [b'x'; 129];
        for hashed in [&b""[..], b"a b", "é".as_bytes(), &[0xff], &long] {
            let id = id_of(hashed);
            assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        }
        assert_ne!(id_of(b"a b"), id_of(b"a c"));
    }

    #[test]
    fn dead_letters_and_what_is_brought_back_are_no_duplicates() {
        let message = |headers: &[(&str, &str)]| {
            let id = streams_core::MessageId::new("id-1").unwrap();
            let mut message = Message::builder("orders").id(id).data("x");
            for (name, value) in headers {
                message = message.header(*name, *value);
            }
            deduplication_id(&message.build().unwrap())
        };
        assert_eq!(message(&[("tenant", "acme")]), "id-1");
        let dead_letter = message(&[(headers::LAST_FAILURE, "17")]);
        let back = message(&[(headers::REDRIVEN, "17")]);
        let dead_again = message(&[(headers::REDRIVEN, "17"), (headers::LAST_FAILURE, "99")]);
        assert_eq!([dead_letter, back], ["id-1@17", "id-1@17"]);
        assert_eq!(dead_again, "id-1@99");
    }
}
