//! The keys of a stream. All of them are in one slot of a cluster, so that scripts may use them
//! together.

use streams_core::StreamName;

/// What the keys of this crate's own begin with.
const OWN: &str = "streams";

/// The keys of one stream.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The stream itself.
    pub(crate) stream: String,
    tag: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, stream: &StreamName) -> Self {
        let stream = format!("{prefix}{stream}");
        let tag = hash_tag(&stream).unwrap_or(&stream).to_owned();
        Self { stream, tag }
    }

    /// Facts of a group's that Redis does not keep; of no group, what those of all begin with.
    pub(crate) fn facts(&self, group: &str) -> String {
        self.own("group", group)
    }

    /// The entries of a group that are free or come again at a time, in the order of their times.
    pub(crate) fn parked(&self, group: &str) -> String {
        self.own("parked", group)
    }

    /// Scheduled messages, in the order of their times.
    pub(crate) fn due(&self) -> String {
        self.own("due", "")
    }

    /// The scheduled messages themselves, by their ids.
    pub(crate) fn bodies(&self) -> String {
        self.own("scheduled", "")
    }

    /// What was added under an idempotency key.
    pub(crate) fn added(&self, id: &str) -> String {
        self.own("added", id)
    }

    /// All that there is of a group beside the stream.
    pub(crate) fn of_group(&self, group: &str) -> [String; 2] {
        [self.facts(group), self.parked(group)]
    }

    fn own(&self, what: &str, name: &str) -> String {
        // The stream's name is spelled out behind its tag, which other streams may share.
        format!("{OWN}:{{{}}}:{}:{what}:{name}", self.tag, self.stream)
    }
}

/// The part of a key in braces, by which alone the cluster places it.
fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str) -> Keys {
        Keys::new("pulse:stream:", &StreamName::new(name).unwrap())
    }

    #[test]
    fn a_stream_is_where_pulse_has_it() {
        assert_eq!(keys("orders").stream, "pulse:stream:orders");
    }

    #[test]
    fn all_keys_of_a_stream_have_its_slot() {
        let plain = keys("orders");
        assert_eq!(hash_tag(&plain.due()), Some("pulse:stream:orders"));
        let tagged = keys("{shop}.orders");
        assert_eq!(hash_tag(&tagged.facts("mailer")), Some("shop"));
        assert_ne!(tagged.due(), keys("{shop}.payments").due());
        // Empty braces are no tag: the whole key is hashed, which no other key can have as its tag.
        assert_eq!(hash_tag("a{}b"), None);
    }
}
