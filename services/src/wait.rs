//! Waiting for other processes, which tell nobody when they are done.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at another process.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something, at most `patience` long.
pub(crate) fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        thread::sleep(PAUSE);
    }
}
