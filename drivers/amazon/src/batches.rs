//! Messages in as few requests as they fit in, and what comes of them.

use streams_core::ErrorKind;

use crate::error::Problem;
use crate::message::Encoded;

/// The most entries of a batch.
pub(crate) const MOST: usize = 10;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its place in what is written.
    pub(crate) index: usize,
    pub(crate) encoded: Encoded,
    /// The bytes that count.
    pub(crate) size: usize,
    /// In seconds; topics have none.
    #[cfg_attr(not(feature = "sqs"), expect(dead_code, reason = "for queues"))]
    pub(crate) delay: i32,
    /// For FIFO queues, the group and the deduplication id.
    pub(crate) fifo: Option<(String, String)>,
}

impl Item {
    /// The group, of a message for a FIFO queue.
    pub(crate) fn group(&self) -> &str {
        self.fifo.as_ref().map_or("", |(group, _)| group)
    }
}

/// Puts the items in batches, in their order, each of ten at most and not over `largest` bytes.
pub(crate) fn batches(items: Vec<Item>, largest: usize) -> Vec<Vec<Item>> {
    let mut all: Vec<Vec<Item>> = Vec::with_capacity(items.len().div_ceil(MOST));
    let mut size = 0;
    for item in items {
        match all.last_mut() {
            Some(last) if last.len() < MOST && size + item.size <= largest => {
                size += item.size;
                last.push(item);
            }
            _ => {
                size = item.size;
                let mut batch = Vec::with_capacity(MOST);
                batch.push(item);
                all.push(batch);
            }
        }
    }
    all
}

/// What came of an entry of a request.
pub(crate) type Done = Result<(), Problem>;

/// What came of the entries of a request, whose ids are their places. Of one that the answer does not
/// name nobody knows.
pub(crate) fn done<'a>(
    count: usize,
    confirmed: impl Iterator<Item = &'a str>,
    failed: impl Iterator<Item = (&'a str, Problem)>,
) -> Vec<Done> {
    let mut all = vec![
        Err(Problem::new(
            ErrorKind::Unavailable,
            "AWS does not say whether it was done; try again",
        ));
        count
    ];
    let confirmed = confirmed.map(|id| (id, Ok(())));
    for (id, one) in confirmed.chain(failed.map(|(id, problem)| (id, Err(problem)))) {
        if let Some(place) = id.parse().ok().and_then(|at: usize| all.get_mut(at)) {
            *place = one;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_answer_does_not_name_is_not_done() {
        let refused = Problem::new(ErrorKind::InvalidMessage, "no");
        let all = done(3, ["0", "7"].into_iter(), [("1", refused)].into_iter());
        let kinds: Vec<_> = all
            .into_iter()
            .map(|one| one.err().map(|p| p.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                None,
                Some(ErrorKind::InvalidMessage),
                Some(ErrorKind::Unavailable)
            ]
        );
    }

    fn of_sizes(sizes: &[usize]) -> Vec<Vec<usize>> {
        let item = |(index, size): (usize, &usize)| Item {
            index,
            encoded: Encoded {
                body: String::new(),
                attributes: Vec::new(),
                subject: None,
                is_structured: false,
            },
            size: *size,
            delay: 0,
            fifo: None,
        };
        let items = sizes.iter().enumerate().map(item).collect();
        let indices = |batch: Vec<Item>| batch.iter().map(|item| item.index).collect();
        batches(items, 100).into_iter().map(indices).collect()
    }

    #[test]
    fn a_batch_is_full_at_ten_or_by_bytes() {
        assert_eq!(of_sizes(&[]), Vec::<Vec<usize>>::new());
        let lengths: Vec<_> = of_sizes(&[1; 25]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [10, 10, 5]);
        assert_eq!(
            of_sizes(&[50, 50, 1, 99, 1, 100]),
            [vec![0, 1], vec![2, 3], vec![4], vec![5]]
        );
    }
}
