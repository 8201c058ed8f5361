//! Message headers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// Ordered headers, cheap to clone; none at all costs no allocation.
///
/// Names are text, values bytes (mostly text). A name may stand more than once, as in Kafka.
///
/// ```
/// use streams_core::Headers;
///
/// let mut headers = Headers::new();
/// headers.insert("trace", "abc");
/// headers.append("tag", "a");
/// headers.append("tag", "b");
/// assert_eq!(headers.get_str("trace"), Some("abc"));
/// assert_eq!(headers.get_all("tag").count(), 2);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<Vec<(ByteString, Bytes)>>>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first value under `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The first value under `name`, if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value under `name`, in order.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Every header, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.shared().map(|(name, value)| (&**name, &value[..]))
    }

    /// Every header as the shared buffers it is held in, for drivers that pass them on uncopied.
    pub fn shared(&self) -> impl Iterator<Item = (&ByteString, &Bytes)> {
        self.0
            .as_deref()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name, value))
    }

    /// Sets `name` to this one value, removing any other.
    pub fn insert(&mut self, name: impl Into<ByteString>, value: impl IntoHeaderValue) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Adds a value, keeping those already under `name`.
    pub fn append(&mut self, name: impl Into<ByteString>, value: impl IntoHeaderValue) {
        let all = self.0.get_or_insert_default();
        Arc::make_mut(all).push((name.into(), value.into_header_value()));
    }

    /// Removes every value under `name`; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        if self.get(name).is_none() {
            return false;
        }
        if let Some(all) = &mut self.0 {
            let all = Arc::make_mut(all);
            all.retain(|(n, _)| &**n != name);
            if all.is_empty() {
                self.0 = None; // equal to headers that never had any
            }
        }
        true
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// What a header's value can be made of.
pub trait IntoHeaderValue {
    /// The value's bytes.
    fn into_header_value(self) -> Bytes;
}

impl IntoHeaderValue for &str {
    fn into_header_value(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoHeaderValue for &String {
    fn into_header_value(self) -> Bytes {
        self.as_str().into_header_value()
    }
}

impl IntoHeaderValue for String {
    fn into_header_value(self) -> Bytes {
        self.into()
    }
}

impl IntoHeaderValue for ByteString {
    fn into_header_value(self) -> Bytes {
        self.into_bytes()
    }
}

impl IntoHeaderValue for &[u8] {
    fn into_header_value(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoHeaderValue for Vec<u8> {
    fn into_header_value(self) -> Bytes {
        self.into()
    }
}

impl IntoHeaderValue for Bytes {
    fn into_header_value(self) -> Bytes {
        self
    }
}

impl<N: Into<ByteString>, V: IntoHeaderValue> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(iter: T) -> Self {
        let all: Vec<_> = iter
            .into_iter()
            .map(|(name, value)| (name.into(), value.into_header_value()))
            .collect();
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in self.iter() {
            match std::str::from_utf8(value) {
                Ok(text) => map.entry(&name, &text),
                Err(_) => map.entry(&name, &value),
            };
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_replaces_and_append_keeps() {
        let mut headers: Headers = [("a", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(headers.len(), 3);
        headers.insert("a", "4");
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(all, [("b", &b"3"[..]), ("a", &b"4"[..])]);
        assert!(headers.remove("b"));
        assert!(!headers.remove("b"));
    }

    #[test]
    fn headers_whose_last_one_is_removed_equal_those_without_any() {
        let mut headers = Headers::new();
        headers.insert("a", "1");
        assert!(headers.remove("a"));
        assert_eq!(headers, Headers::new());
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut headers = Headers::new();
        headers.insert("a", "1");
        let before = headers.clone();
        headers.insert("a", "2");
        assert_eq!(before.get_str("a"), Some("1"));
        assert_eq!(headers.get_str("a"), Some("2"));
    }
}
