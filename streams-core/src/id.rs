//! Message identifiers and the factories that make them.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayString;
use svix_ksuid::{Ksuid, KsuidLike};

use crate::{Error, ErrorKind, Result};

/// The identifier of a message: any non-empty text up to 255 bytes.
///
/// Up to 36 bytes (a UUID, a KSUID) are held in place, without an allocation.
///
/// ```
/// use streams_core::MessageId;
///
/// let id = MessageId::new("order-17")?;
/// assert_eq!(id.as_str(), "order-17");
/// assert!(MessageId::new("").is_err());
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Inline(ArrayString<36>),
    Shared(Arc<str>),
}

impl MessageId {
    /// An identifier of your own.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`] when the text is empty, longer than 255 bytes or has control
    /// characters.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > 255 {
            "is longer than 255 bytes"
        } else if !is_printable_ascii(text) && text.chars().any(char::is_control) {
            "has a control character"
        } else {
            return Ok(Self(match ArrayString::from(text) {
                Ok(inline) => Repr::Inline(inline),
                Err(_) => Repr::Shared(text.into()),
            }));
        };
        Err(Error::new(
            ErrorKind::InvalidMessage,
            format!("the message id {problem}; use a UUID, a KSUID or a short text of your own"),
        ))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Inline(text) => text,
            Repr::Shared(text) => text,
        }
    }
}

/// What nearly all identifiers are, found without decoding each character.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for MessageId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Makes message identifiers. Any `Fn() -> Result<MessageId>` is one.
///
/// ```
/// use streams_core::{IdentifierFactory, ksuid, uuid_v7};
///
/// assert_eq!(uuid_v7()?.as_str().len(), 36);
/// assert_eq!(ksuid()?.as_str().len(), 27);
///
/// fn takes_a_factory(factory: impl IdentifierFactory) -> streams_core::Result<()> {
///     assert_ne!(factory.make()?, factory.make()?);
///     Ok(())
/// }
/// takes_a_factory(ksuid)?;
/// # Ok::<(), streams_core::Error>(())
/// ```
pub trait IdentifierFactory: Send + Sync + 'static {
    /// One new identifier.
    ///
    /// # Errors
    /// Whatever keeps the factory from making one; the message is then not published.
    fn make(&self) -> Result<MessageId>;
}

impl<F> IdentifierFactory for F
where
    F: Fn() -> Result<MessageId> + Send + Sync + 'static,
{
    fn make(&self) -> Result<MessageId> {
        self()
    }
}

/// A UUID version 7 (RFC 9562): sorts by time. The default.
///
/// # Errors
/// None today; the signature is that of an [`IdentifierFactory`].
pub fn uuid_v7() -> Result<MessageId> {
    Ok(new_uuid_v7())
}

pub(crate) fn new_uuid_v7() -> MessageId {
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
    let mut inline = ArrayString::new();
    inline.push_str(text);
    MessageId(Repr::Inline(inline))
}

/// A KSUID: 27 characters that sort by time, as the Go services use.
///
/// # Errors
/// None today; the signature is that of an [`IdentifierFactory`].
pub fn ksuid() -> Result<MessageId> {
    MessageId::new(Ksuid::now(None).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_text_inline_or_shared() {
        for length in [1, 27, 36, 37, 255] {
            let text = "x".repeat(length);
            assert_eq!(MessageId::new(&text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn bad_ids_are_refused() {
        for text in [String::new(), "x".repeat(256), "a\nb".to_owned()] {
            let error = MessageId::new(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        }
    }

    #[test]
    fn uuids_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| uuid_v7().unwrap()).collect();
        assert!(ids.is_sorted());
    }
}
