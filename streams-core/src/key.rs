//! Message keys.

use std::fmt;

use arrayvec::ArrayVec;
use bytes::Bytes;

/// What messages of one entity share: they go to the same partition and are handled in order.
///
/// Any bytes; the empty key is a key. Up to 24 bytes are held in place, without an allocation.
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
    Inline(ArrayVec<u8, 24>),
    Shared(Bytes),
}

impl Key {
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

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(match ArrayVec::try_from(bytes) {
            Ok(inline) => Repr::Inline(inline),
            Err(_) => Repr::Shared(Bytes::copy_from_slice(bytes)),
        })
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        match ArrayVec::try_from(&bytes[..]) {
            Ok(inline) => Self(Repr::Inline(inline)),
            Err(_) => Self(Repr::Shared(bytes)),
        }
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
        Bytes::from(text).into()
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
        for length in [0, 1, 24, 25, 1000] {
            let text = "k".repeat(length);
            assert_eq!(Key::from(&text), Key::from(text.clone()));
            assert_eq!(Key::from(&text).as_bytes(), text.as_bytes());
        }
    }
}
