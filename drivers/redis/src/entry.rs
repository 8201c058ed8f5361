//! Ids of entries.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use streams_core::{Error, ErrorKind, from_unix_millis, unix_millis};

use crate::DRIVER;

/// The id of an entry: milliseconds and a number within them, as `1526919030474-55`.
///
/// ```
/// use streams_redis::EntryId;
///
/// let id: EntryId = "1526919030474-55".parse()?;
/// assert!(id < "1526919030474-100".parse()?);
/// assert_eq!(id.to_string(), "1526919030474-55");
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EntryId {
    /// Milliseconds since 1970, by the server's clock.
    pub millis: u64,
    /// The number among those of one millisecond.
    pub sequence: u64,
}

impl EntryId {
    /// Before every entry there can be.
    pub const MIN: Self = Self {
        millis: 0,
        sequence: 0,
    };

    /// The last there can be.
    pub const MAX: Self = Self {
        millis: u64::MAX,
        sequence: u64::MAX,
    };

    /// The id right behind this one; [`MAX`](Self::MAX) has none and stays.
    #[must_use]
    pub fn next(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self { sequence, ..self },
            None if self.millis == u64::MAX => self,
            None => Self {
                millis: self.millis + 1,
                sequence: 0,
            },
        }
    }

    /// The id right before this one: what a read "after" an id is given to start with that id.
    #[must_use]
    pub(crate) fn before(self) -> Self {
        match (self.millis, self.sequence) {
            (0, 0) => self,
            (millis, 0) => Self {
                millis: millis - 1,
                sequence: u64::MAX,
            },
            (millis, sequence) => Self {
                millis,
                sequence: sequence - 1,
            },
        }
    }

    /// The first id an entry of this time can have.
    pub(crate) fn first_at(time: SystemTime) -> Self {
        Self {
            millis: unix_millis(time).try_into().unwrap_or(0),
            sequence: 0,
        }
    }

    /// When the entry was added, by the server's clock.
    #[must_use]
    pub fn time(self) -> SystemTime {
        from_unix_millis(self.millis.try_into().unwrap_or(i64::MAX))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = Error;

    /// Reads `millis-sequence`, or `millis` alone, which is the first of them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        match (millis.parse(), sequence.parse()) {
            (Ok(millis), Ok(sequence)) => Ok(Self { millis, sequence }),
            _ => Err(Error::new(
                ErrorKind::InvalidConfig,
                "that is no id of an entry; give one like `1526919030474-0`",
            )
            .driver(DRIVER)
            .with("id", text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers_and_have_a_predecessor() {
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        assert!(id("9-10") < id("10-2"));
        assert!(id("9-9") < id("9-10"));
        assert_eq!(id("9-1").before(), id("9-0"));
        assert_eq!(id("9-0").before().to_string(), "8-18446744073709551615");
        assert_eq!(id("0-0").before(), EntryId::MIN);
        assert_eq!(id("8-18446744073709551615").next(), id("9-0"));
        assert_eq!(id("9-0").next(), id("9-1"));
        assert_eq!(EntryId::MAX.next(), EntryId::MAX);
        assert_eq!(id("7").to_string(), "7-0");
    }

    #[test]
    fn a_time_starts_with_the_first_entry_of_its_millisecond() {
        let time = UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(EntryId::first_at(time).to_string(), "1500-0");
        assert_eq!(EntryId::first_at(time).time(), time);
        let long_ago = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(EntryId::first_at(long_ago), EntryId::MIN);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "-", "x", "1-x", "1-2-3", "$", "-1"] {
            let error = text.parse::<EntryId>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }
}
