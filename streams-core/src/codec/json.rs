//! JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Codec;
use crate::{Error, ErrorKind, Result};

/// JSON by serde, as `application/json`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl<E: Serialize + DeserializeOwned> Codec<E> for Json {
    fn content_types(&self) -> &'static [&'static str] {
        &["application/json"]
    }

    fn encode(&self, event: &E, out: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(out, event).map_err(|error| {
            Error::new(ErrorKind::Codec, "the event cannot be written as JSON").source(error)
        })
    }

    fn decode(&self, data: &[u8]) -> Result<E> {
        serde_json::from_slice(data).map_err(|error| {
            Error::new(
                ErrorKind::Codec,
                format!("the data is not this event as JSON: {error}"),
            )
        })
    }
}
