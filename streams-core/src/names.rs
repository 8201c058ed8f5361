//! Stream and group names, content types.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// The suffix of the stream that holds a stream's dead letters.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

/// The name of a stream: 1 to 512 bytes without white space, control characters or any of `*?[]`.
///
/// Drivers may allow less (a Kafka topic takes letters, digits, `.`, `_` and `-`) and say so.
///
/// ```
/// use streams_core::StreamName;
///
/// let name = StreamName::new("user.created")?;
/// assert_eq!(name.dead_letters()?.as_str(), "user.created.dlq");
/// assert!(StreamName::new("user created").is_err());
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Clone)]
pub struct StreamName(Name);

/// A message has a name and a content type each: they are kept small, and a clone of a name known at
/// compile time touches no counter that other threads share.
#[derive(Clone)]
enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl StreamName {
    /// A stream's name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`] when the name is empty, too long or has a forbidden character.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        check_name("stream name", name)?;
        Ok(Self(Name::Shared(name.into())))
    }

    /// A stream's name that is known at compile time: it needs no allocation.
    ///
    /// # Errors
    /// As [`StreamName::new`].
    pub fn from_static(name: &'static str) -> Result<Self> {
        check_name("stream name", name)?;
        Ok(Self(Name::Static(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Static(name) => name,
            Name::Shared(name) => name,
        }
    }

    /// The stream of this one's dead letters: the name with `.dlq` behind it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidMessage`] when that name would be too long.
    pub fn dead_letters(&self) -> Result<Self> {
        Self::new(format!("{self}{DEAD_LETTER_SUFFIX}"))
    }

    /// Whether this stream holds dead letters.
    #[must_use]
    pub fn is_dead_letters(&self) -> bool {
        self.as_str().ends_with(DEAD_LETTER_SUFFIX)
    }
}

impl PartialEq for StreamName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for StreamName {}

impl PartialOrd for StreamName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StreamName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for StreamName {
    /// As that of the text, which it can be looked up by.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl AsRef<str> for StreamName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::borrow::Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for StreamName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for StreamName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// What a stream's name can be given as: text, or a name already checked.
pub trait IntoStreamName {
    /// The checked name.
    ///
    /// # Errors
    /// As [`StreamName::new`].
    fn into_stream_name(self) -> Result<StreamName>;
}

impl IntoStreamName for StreamName {
    fn into_stream_name(self) -> Result<StreamName> {
        Ok(self)
    }
}

impl IntoStreamName for &StreamName {
    #[inline]
    fn into_stream_name(self) -> Result<StreamName> {
        Ok(self.clone())
    }
}

impl IntoStreamName for &str {
    fn into_stream_name(self) -> Result<StreamName> {
        StreamName::new(self)
    }
}

impl IntoStreamName for String {
    fn into_stream_name(self) -> Result<StreamName> {
        StreamName::new(self)
    }
}

impl IntoStreamName for &String {
    fn into_stream_name(self) -> Result<StreamName> {
        StreamName::new(self)
    }
}

pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > 512 {
        format!("is {} bytes long", name.len())
    } else if let Some(c) = name
        .chars()
        .find(|c| c.is_whitespace() || c.is_control() || "*?[]".contains(*c))
    {
        format!("has the character {c:?}")
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::InvalidMessage,
        format!(
            "the {what} {problem}; use 1 to 512 bytes without white space, control characters or *?[]"
        ),
    )
    .with("name", format!("{name:?}")))
}

/// The type of a message's data, as in RFC 2046: `application/json`.
///
/// ```
/// use streams_core::ContentType;
///
/// assert_eq!(ContentType::JSON.as_str(), "application/json");
/// // Parameters and case do not matter when a codec is chosen.
/// assert!(ContentType::new("Application/JSON; charset=utf-8").is("application/json"));
/// ```
#[derive(Clone)]
pub struct ContentType(Known);

#[derive(Clone)]
enum Known {
    Json,
    Protobuf,
    Bytes,
    /// Boxed twice to be as small as the others.
    Other(Arc<Box<str>>),
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-google-protobuf";
const BYTES: &str = "application/octet-stream";

impl ContentType {
    /// `application/json`.
    pub const JSON: Self = Self(Known::Json);
    /// `application/x-google-protobuf`, the name the Go services use.
    pub const PROTOBUF: Self = Self(Known::Protobuf);
    /// `application/octet-stream`: bytes of no declared form. What a message has if nothing is set.
    pub const BYTES: Self = Self(Known::Bytes);

    /// Any other type.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(match text.as_ref() {
            JSON => Known::Json,
            PROTOBUF => Known::Protobuf,
            BYTES => Known::Bytes,
            other => Known::Other(Arc::new(other.into())),
        })
    }

    /// The type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Known::Json => JSON,
            Known::Protobuf => PROTOBUF,
            Known::Bytes => BYTES,
            Known::Other(text) => text,
        }
    }

    /// Whether this is `other`, parameters and case aside.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        let essence = |text: &str| text.split(';').next().unwrap_or("").trim().len();
        let (a, b) = (self.as_str().trim_start(), other.trim_start());
        let (a, b) = (&a[..essence(a)], &b[..essence(b)]);
        a.eq_ignore_ascii_case(b)
    }
}

impl PartialEq for ContentType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ContentType {}

impl Hash for ContentType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Default for ContentType {
    fn default() -> Self {
        Self::BYTES
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl From<&str> for ContentType {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for ContentType {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_characters_are_named() {
        for name in [
            "",
            "a b",
            "a\tb",
            "a*",
            "a?",
            "[a]",
            "a\0",
            &"x".repeat(513),
        ] {
            let error = StreamName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{name:?}");
        }
        let error = StreamName::new("a b").unwrap_err().to_string();
        assert!(error.contains("' '"), "{error}");
        assert!(StreamName::new("größe/1:a-b_c.d").is_ok());
    }

    #[test]
    fn content_types_compare_without_parameters() {
        let json = ContentType::JSON;
        assert!(json.is("application/json"));
        assert!(json.is(" APPLICATION/JSON ;x=y"));
        assert!(!json.is("application/jso"));
        assert!(!ContentType::new("").is("application/json"));
    }
}
