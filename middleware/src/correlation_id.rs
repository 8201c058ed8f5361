//! Correlation id: the id of what started it all, passed on from message to message.
//!
//! # Behavior
//! - The id is the message's header `correlation-id`, or, where there is none, the message's own id.
//! - It is in the `tracing` span `handle` around the handler, as `correlation_id`, so that everything
//!   logged in it can be found by it.
//! - Everything published through [`Context::publisher`](streams_core::Context::publisher) carries
//!   it, unless the message has a header of that name already.
//! - In a batch each delivery's context has its own; the span has the number of messages instead,
//!   unless there is only one.
//!
//! # Where it belongs
//! Outermost, around [`Logging`](crate::Logging) too, so that all that is logged is in its span.

use bytestring::ByteString;
use streams_core::{Context, Error, Handler, Headers, Input, Layer, Result};
use tracing::Instrument;

/// The header's name, unless set otherwise.
pub const HEADER: &str = "correlation-id";

/// The layer. See the [module](self).
///
/// ```
/// use streams_middleware::CorrelationId;
///
/// let default = CorrelationId::new();
/// let own = CorrelationId::with_header("x-request-id")?;
/// # let _: [CorrelationId; 2] = [default, own];
/// # Ok::<(), streams_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CorrelationId {
    header: ByteString,
}

impl CorrelationId {
    /// In the header [`correlation-id`](HEADER).
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: ByteString::from_static(HEADER),
        }
    }

    /// In a header of your choice.
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig) for an empty name.
    pub fn with_header(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::invalid_config(
                "the correlation id's header has an empty name; name it, or use `CorrelationId::new`",
            ));
        }
        Ok(Self {
            header: name.into(),
        })
    }

    fn pass_on(&self, context: Context) -> Context {
        let mut headers = Headers::new();
        match self.given(&context) {
            Some(value) => headers.append(self.header.clone(), value),
            None => headers.append(self.header.clone(), context.message().id().as_str()),
        }
        context.with_publish_headers(&headers)
    }

    fn given<'a>(&self, context: &'a Context) -> Option<&'a [u8]> {
        context
            .headers()
            .get(&self.header)
            .filter(|value| !value.is_empty())
    }
}

impl Default for CorrelationId {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Layer<H> for CorrelationId {
    type Service = CorrelationIdService<H>;

    fn layer(&self, next: H) -> Self::Service {
        CorrelationIdService {
            next,
            settings: self.clone(),
        }
    }
}

/// A handler within [`CorrelationId`].
#[derive(Debug, Clone)]
pub struct CorrelationIdService<H> {
    next: H,
    settings: CorrelationId,
}

impl<I: Input, H: Handler<I>> Handler<I> for CorrelationIdService<H> {
    async fn handle(&self, input: &I) -> I::Output {
        let items = input.items();
        let span = match items {
            [one] => {
                let id = match self.settings.given(one) {
                    Some(value) => String::from_utf8_lossy(value),
                    None => one.message().id().as_str().into(),
                };
                tracing::info_span!("handle", correlation_id = &*id)
            }
            many => tracing::info_span!("handle", messages = many.len()),
        };
        let input = input.map_contexts(|context| self.settings.pass_on(context));
        self.next.handle(&input).instrument(span).await
    }
}
