//! Only some messages: [`Filter`].

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "regex")]
use streams_core::{Error, Result};
use streams_core::{Handler, HandlerError, Input, Layer, Message, Outcome};

type Predicate = dyn Fn(&Message) -> bool + Send + Sync;

/// Handles only the messages it is for, and acknowledges the others, so that they do not come again. They
/// stay in the stream, for other groups.
///
/// Where it belongs: outermost, for what is not handled is nothing to log, count or deduplicate.
///
/// ```
/// use streams_core::{Context, Handler, Layer, Message, Outcome, message_fn};
/// use streams_middleware::Filter;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let handler = Filter::header("region", "eu").layer(message_fn(|_, _| async { Outcome::dead_letter("it") }));
/// let other = Message::builder("orders").data("x").header("region", "us").build()?;
/// assert_eq!(handler.handle(&Context::for_test(other)).await.unwrap(), Outcome::Ack);
/// # Ok::<(), streams_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Filter {
    wants: Arc<Predicate>,
}

impl Filter {
    /// Messages of which this is true.
    pub fn new(wants: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Self {
        Self {
            wants: Arc::new(wants),
        }
    }

    /// Messages that have a header of exactly this value. Event name and topic of Redis entries are the
    /// headers `streams-event-name` and `streams-topic`.
    pub fn header(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let (name, value) = (name.into(), value.into());
        Self::new(move |message| message.headers().get_all(&name).any(|one| one == value))
    }

    /// Messages that have a header in which this regular expression is found; with `^` and `$` it must
    /// be the whole value.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for a pattern that is none.
    #[cfg(feature = "regex")]
    pub fn header_matches(name: impl Into<String>, pattern: &str) -> Result<Self> {
        let (name, pattern) = (name.into(), regex(pattern)?);
        Ok(Self::new(move |message| {
            let mut values = message.headers().get_all(&name);
            values.any(|value| pattern.is_match(value))
        }))
    }
}

#[cfg(feature = "regex")]
fn regex(pattern: &str) -> Result<regex::bytes::Regex> {
    regex::bytes::Regex::new(pattern).map_err(|source| {
        Error::invalid_config("the pattern is no regular expression; see the cause").source(source)
    })
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl<H> Layer<H> for Filter {
    type Service = FilterService<H>;

    fn layer(&self, next: H) -> Self::Service {
        FilterService {
            next,
            wants: self.wants.clone(),
        }
    }
}

/// A handler within [`Filter`].
#[derive(Clone)]
pub struct FilterService<H> {
    next: H,
    wants: Arc<Predicate>,
}

impl<H: fmt::Debug> fmt::Debug for FilterService<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterService")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl<I: Input, H: Handler<I>> Handler<I> for FilterService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let items = input.items();
        let wanted: Vec<bool> = items
            .iter()
            .map(|context| (self.wants)(context.message()))
            .collect();
        if wanted.iter().all(|wanted| *wanted) {
            return self.next.handle(input).await;
        }
        let keep: Vec<usize> = (0..wanted.len()).filter(|index| wanted[*index]).collect();
        let mut each = wanted.iter();
        let mut output = input.output(|_| match each.next() {
            Some(true) => Err(HandlerError::new(
                "the handler gave no result for this message",
            )),
            _ => Ok(Outcome::Ack),
        });
        if let Some(rest) = input.select(&keep) {
            let mut handled = self.next.handle(&rest).await;
            for (index, result) in keep.into_iter().zip(I::results(&mut handled)) {
                std::mem::swap(&mut I::results(&mut output)[index], result);
            }
        }
        output
    }
}
