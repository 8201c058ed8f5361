//! The rules of `streams_core::StreamName`. A test of `streams-core` holds the two together.

/// What is wrong with a stream's name, if anything.
pub(crate) fn problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > 512 {
        return Some(format!("is {} bytes long", name.len()));
    }
    name.chars()
        .find(|c| c.is_whitespace() || c.is_control() || "*?[]".contains(*c))
        .map(|c| format!("has the character {c:?}"))
}
