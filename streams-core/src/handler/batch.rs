//! Many deliveries handled by one call.

use std::ops::Deref;

use super::{Context, HandlerError, HandlerResult, Outcome};
use crate::ErrorKind;

/// Deliveries that a batch handler gets at once, in the order received.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    contexts: Vec<Context>,
}

impl Batch {
    pub(crate) fn from_contexts(contexts: Vec<Context>) -> Self {
        Self { contexts }
    }

    pub(crate) fn contexts_mut(&mut self) -> &mut Vec<Context> {
        &mut self.contexts
    }

    /// A batch of contexts from [`Context::for_test`], to call a batch handler or a layer in a test.
    #[must_use]
    pub fn for_test(contexts: impl IntoIterator<Item = Context>) -> Self {
        Self::from_contexts(contexts.into_iter().collect())
    }

    /// An outcome that acknowledges every delivery.
    #[must_use]
    pub fn ack_all(&self) -> BatchOutcome {
        self.iter().map(|_| Ok(Outcome::Ack)).collect()
    }
}

impl Deref for Batch {
    type Target = [Context];

    fn deref(&self) -> &[Context] {
        &self.contexts
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Context;
    type IntoIter = std::slice::Iter<'a, Context>;

    fn into_iter(self) -> Self::IntoIter {
        self.contexts.iter()
    }
}

/// A result for each delivery of a batch, in its order: collect one from an iterator of results.
///
/// Where it is too short, the deliveries without a result count as failed; nothing is taken as
/// acknowledged because it was forgotten.
#[derive(Debug, Default)]
pub struct BatchOutcome {
    results: Vec<HandlerResult>,
}

impl BatchOutcome {
    pub(crate) fn results_mut(&mut self) -> &mut [HandlerResult] {
        &mut self.results
    }

    /// Makes it fit a batch of `count`.
    pub(crate) fn fit(&mut self, count: usize) {
        let given = self.results.len();
        if given != count {
            self.results.resize_with(count, || {
                Err(HandlerError::new(crate::Error::new(
                    ErrorKind::Other,
                    format!(
                        "the batch handler returned {given} results for {count} deliveries; \
                         return one for each"
                    ),
                )))
            });
        }
    }

    /// The results, in the order of the batch.
    #[must_use]
    pub fn into_results(self) -> Vec<HandlerResult> {
        self.results
    }
}

impl FromIterator<HandlerResult> for BatchOutcome {
    fn from_iter<T: IntoIterator<Item = HandlerResult>>(iter: T) -> Self {
        Self {
            results: iter.into_iter().collect(),
        }
    }
}
