//! The shards of a stream: which there are, and which may be read.
//!
//! A shard ends after some hours, or when its partition is split, and is followed by children. What
//! stands in a child came after all of its parent, so a child is begun when its parent is done.

use std::collections::{HashMap, HashSet};

use streams_core::Result;

use super::leases::{Part, View};
use crate::error::error;
use crate::outbox::Outbox;

/// How the parts of a relay by streams begin.
pub(crate) const PART: &str = "shard/";

/// A shard, as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
}

/// Where reading a shard begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// After this record.
    After(String),
    /// At its beginning: all before it was relayed from its parent.
    Beginning,
    /// At its beginning, after the rows of the table that no shard has any more.
    Gap,
}

/// The shards of a stream, of all its pages.
pub(crate) async fn list(outbox: &Outbox, arn: &str) -> Result<Vec<Shard>> {
    let mut all = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let describe = outbox.dynamodb().streams.describe_stream().stream_arn(arn);
        let described = describe.set_exclusive_start_shard_id(from).send().await;
        let described = described.map_err(|source| error(&source, "describe"))?;
        let Some(stream) = described.stream_description else {
            return Ok(all);
        };
        all.extend(
            stream
                .shards
                .unwrap_or_default()
                .into_iter()
                .filter_map(|shard| {
                    Some(Shard {
                        id: shard.shard_id?,
                        parent: shard.parent_shard_id,
                    })
                }),
        );
        from = stream.last_evaluated_shard_id;
        if from.is_none() {
            return Ok(all);
        }
    }
}

/// The parts that may be worked at now: of shards that are not done, and whose parent is.
pub(crate) fn open(shards: &[Shard], view: &View) -> Vec<String> {
    let listed: HashSet<_> = shards.iter().map(|shard| shard.id.as_str()).collect();
    let done = |id: &str| view.parts.get(&part(id)).is_some_and(|part| part.done);
    let open = shards.iter().filter(|shard| {
        let parent = shard.parent.as_deref();
        let waits = parent.is_some_and(|parent| listed.contains(parent) && !done(parent));
        !done(&shard.id) && !waits
    });
    open.map(|shard| part(&shard.id)).collect()
}

/// The parts of shards that are gone, and that no shard there is comes from.
pub(crate) fn gone(shards: &[Shard], view: &View) -> Vec<String> {
    let known = shards
        .iter()
        .flat_map(|shard| [Some(&shard.id), shard.parent.as_ref()]);
    let known: HashSet<_> = known.flatten().map(|id| part(id)).collect();
    let parts = view.parts.keys().filter(|name| name.starts_with(PART));
    parts
        .filter(|name| !known.contains(*name))
        .cloned()
        .collect()
}

/// Where reading a shard begins.
pub(crate) fn start(
    name: &str,
    taken: &Part,
    shards: &[Shard],
    parts: &HashMap<String, Part>,
) -> Start {
    if let Some(at) = &taken.checkpoint {
        return Start::After(at.clone());
    }
    let shard = shards.iter().find(|shard| part(&shard.id) == name);
    let parent = shard.and_then(|shard| shard.parent.as_deref());
    match parent.and_then(|parent| parts.get(&part(parent))) {
        Some(parent) if parent.done => Start::Beginning,
        // The first there is; or its parent has gone before it was done.
        _ => Start::Gap,
    }
}

pub(crate) fn part(shard: &str) -> String {
    format!("{PART}{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parent: Option<&str>) -> Shard {
        Shard {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
        }
    }

    fn view(parts: &[(&str, bool)]) -> View {
        let part = |(id, done): &(&str, bool)| {
            let known = Part {
                done: *done,
                ..Part::default()
            };
            (part(id), known)
        };
        View {
            parts: parts.iter().map(part).collect(),
            ..View::default()
        }
    }

    #[test]
    fn children_wait_for_their_parent() {
        let shards = [
            shard("a", None),
            shard("b", Some("a")),
            shard("c", Some("a")),
            shard("d", Some("b")),
        ];
        assert_eq!(open(&shards, &view(&[])), ["shard/a"]);
        assert_eq!(open(&shards, &view(&[("a", false)])), ["shard/a"]);
        assert_eq!(open(&shards, &view(&[("a", true)])), ["shard/b", "shard/c"]);
        let later = view(&[("a", true), ("b", true)]);
        assert_eq!(open(&shards, &later), ["shard/c", "shard/d"]);
        // The stream forgets what is older than a day.
        let fewer = [shard("c", Some("a")), shard("d", Some("b"))];
        assert_eq!(open(&fewer, &view(&[])), ["shard/c", "shard/d"]);
    }

    #[test]
    fn what_is_known_of_the_parent_decides_where_a_child_begins() {
        let shards = [shard("b", Some("a")), shard("c", None)];
        let begin = |id: &str, taken: Option<&str>, known: &[(&str, bool)]| {
            let taken = Part {
                checkpoint: taken.map(str::to_owned),
                ..Part::default()
            };
            start(&part(id), &taken, &shards, &view(known).parts)
        };
        assert_eq!(begin("b", Some("7"), &[]), Start::After("7".to_owned()));
        assert_eq!(begin("b", None, &[("a", true)]), Start::Beginning);
        assert_eq!(begin("b", None, &[("a", false)]), Start::Gap);
        assert_eq!(begin("b", None, &[]), Start::Gap);
        assert_eq!(begin("c", None, &[]), Start::Gap);
    }

    #[test]
    fn a_part_is_forgotten_when_no_child_needs_it() {
        let known = view(&[("a", true), ("b", true), ("c", false)]);
        let shards = [shard("c", Some("b"))];
        assert_eq!(gone(&shards, &known), ["shard/a"]);
    }
}
