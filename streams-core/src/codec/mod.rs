//! Codecs: events to data and back, chosen by content type.

mod json;
mod protobuf;

pub use json::Json;
pub use protobuf::Protobuf;

use crate::event::{Event, Schema};
use crate::{Error, ErrorKind, Message, Result};

/// Encodes and decodes events of type `E`.
///
/// [`Json`] and [`Protobuf`] come with the crate; implement this for a format of your own and add
/// it to the event's [`Schema`].
pub trait Codec<E>: Send + Sync + 'static {
    /// The content types it reads. The first is the one it writes.
    fn content_types(&self) -> &'static [&'static str];

    /// Appends the event's data to `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`] when the event has no form in this codec.
    fn encode(&self, event: &E, out: &mut Vec<u8>) -> Result<()>;

    /// The event that `data` holds.
    ///
    /// # Errors
    /// [`ErrorKind::Codec`], saying what is wrong with the data.
    fn decode(&self, data: &[u8]) -> Result<E>;
}

/// Decodes a message's data as `E`, by the codec that reads its content type.
pub(crate) fn decode<E: Event>(schema: &Schema<E>, message: &Message) -> Result<E> {
    let fail = |error: Error| {
        error
            .operation("decode")
            .with("event", schema.name())
            .with("stream", message.stream())
            .with("id", message.id())
    };
    let content_type = message.content_type();
    let codec = schema.codecs().iter().find(|codec| {
        codec
            .content_types()
            .iter()
            .any(|known| content_type.is(known))
    });
    let Some(codec) = codec else {
        let known: Vec<_> = schema
            .codecs()
            .iter()
            .flat_map(|c| c.content_types())
            .copied()
            .collect();
        return Err(fail(Error::new(
            ErrorKind::Codec,
            format!(
                "no codec of this event reads the content type `{content_type}`; it reads {}. \
                 Add a codec to its schema, or correct the publisher",
                known.join(", ")
            ),
        )));
    };
    codec.decode(message.data()).map_err(fail)
}
