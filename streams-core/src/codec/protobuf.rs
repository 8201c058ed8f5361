//! Protocol Buffers.

use super::Codec;
use crate::{Error, ErrorKind, Result};

/// Protocol Buffers by prost, as `application/x-google-protobuf`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Protobuf;

impl<E: prost::Message + Default + 'static> Codec<E> for Protobuf {
    fn content_types(&self) -> &'static [&'static str] {
        &[
            "application/x-google-protobuf",
            "application/protobuf",
            "application/x-protobuf",
        ]
    }

    fn encode(&self, event: &E, out: &mut Vec<u8>) -> Result<()> {
        event.encode(out).map_err(|error| {
            Error::new(ErrorKind::Codec, "the event cannot be written as protobuf").source(error)
        })
    }

    fn decode(&self, data: &[u8]) -> Result<E> {
        E::decode(data).map_err(|error| {
            Error::new(
                ErrorKind::Codec,
                format!("the data is not this event as protobuf: {error}"),
            )
        })
    }
}
