//! Message keys.

use std::fmt;
use std::sync::Arc;

use arrayvec::ArrayVec;
use bytes::Bytes;

/// What messages of one entity share: they go to the same partition and are handled in order.
///
/// Any bytes; the empty key is a key. Up to 20 bytes are held in place, without an allocation.
///
/// ```
/// use streams_core::Key;
///
/// let key = Key::from("user-17");
/// assert_eq!(key.as_str(), Some("user-17"));
/// assert_eq!(Key::from(&[0xff][..]).as_str(), None);
/// ```
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline(ArrayVec<u8, 20>),
    Shared(Arc<[u8]>),
}

impl Key {
    /// The key that a value prints as: of a number, a UUID, a type of your own.
    ///
    /// ```
    /// use streams_core::Key;
    ///
    /// assert_eq!(Key::from_display(17), Key::from("17"));
    /// ```
    #[must_use]
    pub fn from_display(value: impl fmt::Display) -> Self {
        let mut text = Text::Inline(ArrayVec::new());
        // Writing to memory does not fail, and a `Display` that fails has nothing more to say.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{value}"));
        match text {
            Text::Inline(bytes) => Self(Repr::Inline(bytes)),
            Text::Heap(bytes) => Self(Repr::Shared(bytes.into())),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(bytes) => bytes,
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The key as text, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }
}

/// Collects a key's text in place for as long as it fits.
enum Text {
    Inline(ArrayVec<u8, 20>),
    Heap(Vec<u8>),
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self {
            Self::Inline(inline) => {
                if inline.try_extend_from_slice(text.as_bytes()).is_err() {
                    *self = Self::Heap([&inline[..], text.as_bytes()].concat());
                }
            }
            Self::Heap(bytes) => bytes.extend_from_slice(text.as_bytes()),
        }
        Ok(())
    }
}

impl From<&[u8]> for Key {
    #[inline]
    fn from(bytes: &[u8]) -> Self {
        Self(match ArrayVec::try_from(bytes) {
            Ok(inline) => Repr::Inline(inline),
            Err(_) => Repr::Shared(bytes.into()),
        })
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self::from(&bytes[..])
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        text.as_bytes().into()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            Some(text) => fmt::Debug::fmt(text, f),
            None => fmt::Debug::fmt(self.as_bytes(), f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_and_shared_keys_are_equal_by_bytes() {
        for length in [0, 1, 20, 21, 1000] {
            let text = "k".repeat(length);
            assert_eq!(Key::from(&text), Key::from(text.clone()));
            assert_eq!(Key::from(&text).as_bytes(), text.as_bytes());
            assert_eq!(Key::from_display(&text), Key::from(&text));
            assert_eq!(
                Key::from_display(format_args!("{text}{text}"))
                    .as_bytes()
                    .len(),
                2 * length
            );
        }
    }
}
