//! Options of one subscription.

use std::collections::BTreeSet;
use std::time::Duration;

use streams_core::{
    DriverArguments, DriverOptions, Error, OptionFor, ReadOptions, Result, StartFrom,
};

use crate::config::DRIVER;
use crate::{Kafka, KafkaControl};

/// How often positions are committed unless set otherwise.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// What the client may hold of a partition unless set otherwise, in bytes.
const PREFETCH: usize = 8 << 20;

/// Options of one subscription.
///
/// By name, as from a configuration file: `commit_interval_ms`, `partitions` (such as `0,3`),
/// `until_end`, `instance_id`, `statistics_interval_ms`, `prefetch_bytes`, and those of the Go services:
/// `kafka-group-id`, `kafka-partition-id`, `kafka-init-offset`.
///
/// ```
/// use std::time::Duration;
/// use streams_kafka::KafkaOptions;
///
/// let options = KafkaOptions::new()
///     .commit_interval(Duration::from_secs(1))
///     .instance_id("mailer-0");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until a subscription is given them"]
pub struct KafkaOptions {
    commit_interval: Option<Duration>,
    partitions: Option<BTreeSet<u32>>,
    until_end: bool,
    instance_id: Option<String>,
    statistics_interval: Option<Duration>,
    prefetch: Option<usize>,
    control: Option<KafkaControl>,
}

impl KafkaOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how often the positions of what is acknowledged are committed; the default is 100 ms.
    /// After a crash, what was acknowledged since the last commit is delivered again. With zero
    /// each acknowledgement waits for its commit, which costs a round trip to the broker each time.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = Some(interval);
        self
    }

    /// Reads only these partitions. For subscriptions without a group: members of a group share
    /// the partitions out among themselves.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Ends the subscription once it has delivered everything that was there when it came to the end
    /// of each partition: a compacted topic is read into a table with this. For subscriptions
    /// without a group.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// Makes the subscription a static member of its group (`group.instance.id`): when it comes
    /// back under the same name within the session timeout, it gets its partitions back without a
    /// rebalance. Each member of a group needs a name of its own; a second one under a name ends the
    /// first.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Sets how often lag and other metrics are brought up to date; the default is 5 s. Zero turns
    /// them off.
    pub fn statistics_interval(mut self, interval: Duration) -> Self {
        self.statistics_interval = Some(interval);
        self
    }

    /// Sets how many bytes the client may hold of each partition that nobody has asked for yet; the
    /// default is 8 MiB. It is rounded down to KiB. Together with what is in flight this bounds the
    /// memory of a subscription whose handlers are slow. Keys and values are counted; the client
    /// itself needs about half a KiB more for each message, and the last fetch may go over it by
    /// `fetch.message.max.bytes`, 1 MiB.
    pub fn prefetch(mut self, bytes: usize) -> Self {
        self.prefetch = Some(bytes);
        self
    }

    /// Ties a handle to the subscription, to seek, pause and ask for positions while it runs.
    pub fn control(mut self, control: &KafkaControl) -> Self {
        self.control = Some(control.clone());
        self
    }
}

impl DriverOptions for KafkaOptions {
    const DRIVER: &'static str = DRIVER;
}

impl OptionFor<Kafka> for KafkaOptions {}

const ARGUMENTS: &[&str] = &[
    "commit_interval_ms",
    "partitions",
    "until_end",
    "instance_id",
    "statistics_interval_ms",
    "prefetch_bytes",
    "kafka-group-id",
    "kafka-partition-id",
    "kafka-init-offset",
];

/// What a subscription asks for, checked.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) group: Option<String>,
    pub(crate) start: StartFrom,
    pub(crate) commit_interval: Duration,
    pub(crate) partitions: Option<BTreeSet<u32>>,
    pub(crate) until_end: bool,
    pub(crate) instance_id: Option<String>,
    pub(crate) statistics_interval: Duration,
    pub(crate) prefetch: usize,
    pub(crate) control: Option<KafkaControl>,
    pub(crate) exactly_once: bool,
}

impl Plan {
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for what cannot be.
    pub(crate) fn of(options: &ReadOptions) -> Result<Self> {
        let arguments = &options.driver;
        arguments.check(DRIVER, ARGUMENTS)?;
        let mut own = arguments.get::<KafkaOptions>().cloned().unwrap_or_default();
        own.read(arguments)?;
        let mut plan = Self {
            group: options.group.clone(),
            start: options.start.clone(),
            commit_interval: own.commit_interval.unwrap_or(COMMIT_INTERVAL),
            partitions: own.partitions,
            until_end: own.until_end,
            instance_id: own.instance_id,
            statistics_interval: own.statistics_interval.unwrap_or(Duration::from_secs(5)),
            prefetch: own.prefetch.unwrap_or(PREFETCH),
            control: own.control,
            exactly_once: options.exactly_once,
        };
        plan.read_go_names(arguments)?;
        plan.check()?;
        Ok(plan)
    }

    /// The arguments of the Go driver.
    fn read_go_names(&mut self, arguments: &DriverArguments) -> Result<()> {
        if let Some(group) = arguments.argument("kafka-group-id") {
            match &self.group {
                Some(other) if other != group => {
                    return bad(format!(
                        "the argument `kafka-group-id` is `{group}` but the subscription's group is \
                         `{other}`; leave one out"
                    ));
                }
                _ => self.group = Some(group.to_owned()),
            }
        }
        if let Some(partition) = arguments.parse("kafka-partition-id")? {
            if self.partitions.is_some() {
                return bad(
                    "there are both `partitions` and `kafka-partition-id`; leave one out"
                        .to_owned(),
                );
            }
            self.partitions = Some([partition].into());
        }
        if let Some(offset) = arguments.parse::<i64>("kafka-init-offset")? {
            if self.start != StartFrom::Default {
                return bad(
                    "there are both a start position and `kafka-init-offset`; leave one out"
                        .to_owned(),
                );
            }
            // What segmentio's client for Go calls the first and the last offset.
            self.start = match offset {
                -2 => StartFrom::Earliest,
                -1 => StartFrom::Latest,
                offset => StartFrom::Position(offset.to_string()),
            };
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if let StartFrom::Position(text) = &self.start
            && !text.parse::<i64>().is_ok_and(|offset| offset >= 0)
        {
            return bad(format!(
                "the start position is `{text}`; a position in Kafka is an offset such as `42`"
            ));
        }
        if self.partitions.as_ref().is_some_and(BTreeSet::is_empty) {
            return bad("the list of partitions is empty; leave it out for all".to_owned());
        }
        if let Some(id) = &self.instance_id
            && (id.is_empty() || id.len() > 249)
        {
            return bad(
                "the instance id is empty or longer than 249 bytes; use a short name that is \
                        the same at each start, such as the host's"
                    .to_owned(),
            );
        }
        if !self.statistics_interval.is_zero()
            && !(Duration::from_millis(100)..=Duration::from_secs(3600))
                .contains(&self.statistics_interval)
        {
            return bad(
                "the statistics interval is out of range; use 100 ms to an hour, or zero for none"
                    .to_owned(),
            );
        }
        if self.commit_interval > Duration::from_secs(3600) {
            return bad("the commit interval is longer than an hour; use less".to_owned());
        }
        if !(1 << 10..=2 << 30).contains(&self.prefetch) {
            return bad("the prefetch is out of range; use 1 KiB to 2 GiB".to_owned());
        }
        match &self.group {
            Some(_) if self.partitions.is_some() => bad(
                "the members of a group share the partitions out among themselves; leave out the \
                 partitions, or the group"
                    .to_owned(),
            ),
            Some(_) if self.until_end => bad(
                "the partitions of a group's member come and go, so there is no end to read to; \
                 leave out `until_end`, or the group"
                    .to_owned(),
            ),
            None if self.instance_id.is_some() => {
                bad("only a member of a group has an instance id; name a group".to_owned())
            }
            None if self.exactly_once => bad(
                "exactly once needs a group, whose positions are part of the transaction; name one"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

impl KafkaOptions {
    fn read(&mut self, arguments: &DriverArguments) -> Result<()> {
        if let Some(millis) = arguments.parse("commit_interval_ms")? {
            self.commit_interval = Some(Duration::from_millis(millis));
        }
        if let Some(millis) = arguments.parse("statistics_interval_ms")? {
            self.statistics_interval = Some(Duration::from_millis(millis));
        }
        if let Some(bytes) = arguments.parse("prefetch_bytes")? {
            self.prefetch = Some(bytes);
        }
        if let Some(text) = arguments.argument("partitions") {
            let numbers: Result<_, _> = text.split(',').map(|n| n.trim().parse::<u32>()).collect();
            match numbers {
                Ok(numbers) => self.partitions = Some(numbers),
                Err(_) => {
                    return bad(format!(
                        "the argument `partitions` is `{text}`; use numbers separated by commas, \
                         such as `0,3`"
                    ));
                }
            }
        }
        if let Some(until_end) = arguments.parse("until_end")? {
            self.until_end = until_end;
        }
        if let Some(id) = arguments.argument("instance_id") {
            self.instance_id = Some(id.to_owned());
        }
        Ok(())
    }
}

fn bad<T>(message: String) -> Result<T> {
    Err(Error::invalid_config(message).driver(DRIVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[(&str, &str)], group: Option<&str>) -> Result<Plan> {
        let mut options = ReadOptions::new("orders")?;
        if let Some(group) = group {
            options = options.group(group)?;
        }
        for (name, value) in arguments {
            options.driver.set(*name, *value);
        }
        Plan::of(&options)
    }

    #[test]
    fn arguments_have_the_names_of_the_go_services() {
        let plan = options(
            &[("kafka-partition-id", "3"), ("kafka-init-offset", "17")],
            None,
        )
        .unwrap();
        assert_eq!(plan.partitions, Some([3].into()));
        assert_eq!(plan.start, StartFrom::Position("17".to_owned()));
        let plan = options(&[("kafka-group-id", "mailer")], None).unwrap();
        assert_eq!(plan.group.as_deref(), Some("mailer"));
        let plan = options(&[("kafka-init-offset", "-2")], None).unwrap();
        assert_eq!(plan.start, StartFrom::Earliest);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (arguments, group, says) in [
            (&[("kafka-group-id", "a")][..], Some("b"), "leave one out"),
            (&[("partitions", "1")], Some("b"), "share the partitions"),
            (&[("partitions", "1,x")], None, "separated by commas"),
            (
                &[("partitions", "1"), ("kafka-partition-id", "1")],
                None,
                "leave one out",
            ),
            (&[("until_end", "true")], Some("b"), "no end"),
            (&[("instance_id", "a")], None, "name a group"),
            (&[("instance_id", "")], Some("b"), "instance id"),
            (&[("kafka-init-offset", "-3")], None, "offset such as"),
            (&[("statistics_interval_ms", "5")], None, "100 ms"),
            (&[("commit_interval_ms", "99999999999")], None, "an hour"),
            (&[("prefetch_bytes", "10")], None, "1 KiB"),
            (&[("no_such", "1")], None, "no_such"),
        ] {
            let error = options(arguments, group).unwrap_err().to_string();
            assert!(error.contains(says), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn exactly_once_needs_a_group() {
        let options = ReadOptions::new("orders").unwrap().exactly_once(true);
        assert!(Plan::of(&options).is_err());
        assert!(Plan::of(&options.group("a").unwrap()).is_ok());
    }
}
