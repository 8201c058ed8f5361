//! When to look again.

use std::time::Duration;

/// How long to wait for the next look: longer each time that nothing was there.
#[derive(Debug, Clone, Copy)]
pub struct Poll {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Poll {
    /// At first the shortest, in the end the longest.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            next: shortest,
        }
    }

    /// Nothing was there: wait so long.
    pub fn empty(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now
    }

    /// Something was there.
    pub fn found(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_to_the_cap() {
        let mut poll = Poll::new(Duration::from_millis(10), Duration::from_secs(1));
        let waits: Vec<_> = (0..9).map(|_| poll.empty().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        poll.found();
        assert_eq!(poll.empty().as_millis(), 10);
    }
}
