//! Interleaved pairs: A B A B .., so that what slows the machine slows both.

use std::time::Duration;

/// Pairs measured for one figure, an odd number for the median.
pub const PAIRS: usize = 9;

/// What pairs came to.
#[derive(Debug, Clone, Copy)]
pub struct Compared {
    /// The median of `a`'s time by `b`'s, pair by pair: how much faster `b` is.
    pub ratio: f64,
    /// The median time of `a`.
    pub a: Duration,
    /// The median time of `b`.
    pub b: Duration,
}

/// Runs both sides in turn, once to warm up and then [`PAIRS`] times.
pub fn compare(mut a: impl FnMut() -> Duration, mut b: impl FnMut() -> Duration) -> Compared {
    a();
    b();
    let pairs: Vec<_> = (0..PAIRS).map(|_| (a(), b())).collect();
    let ratios = pairs.iter().map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
    Compared {
        ratio: median(ratios.collect()),
        a: Duration::from_secs_f64(median(pairs.iter().map(|(a, _)| a.as_secs_f64()).collect())),
        b: Duration::from_secs_f64(median(pairs.iter().map(|(_, b)| b.as_secs_f64()).collect())),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_take_turns() {
        let turns = std::cell::RefCell::new(Vec::new());
        let side = |name, millis| {
            let turns = &turns;
            move || {
                turns.borrow_mut().push(name);
                Duration::from_millis(millis)
            }
        };
        let compared = compare(side('a', 20), side('b', 10));
        assert!((compared.ratio - 2.0).abs() < 1e-9);
        assert_eq!((compared.a.as_millis(), compared.b.as_millis()), (20, 10));
        let turns: String = turns.borrow().iter().collect();
        assert_eq!(turns, "ab".repeat(PAIRS + 1));
    }
}
