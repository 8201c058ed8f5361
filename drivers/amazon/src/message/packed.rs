//! The attribute for what has no place in others.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::text::sendable_json;

const ID: &str = "id";
const KEY: &str = "key";
const CONTENT_TYPE: &str = "content_type";
const HEADERS: &str = "headers";

/// What has no place in other attributes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) id: Option<String>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) content_type: Option<String>,
    /// All headers in their order, if it is not that of their names or if some are packed.
    pub(super) headers: Option<Vec<Header>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// It is an attribute of this name.
    Attribute(String),
    /// It is here.
    Packed(String, Vec<u8>),
}

impl Packed {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The attribute's value: `{"key":"<base64>","headers":["in an attribute",["name","text"],
    /// ["name","<base64>","base64"]]}`. None if there is nothing.
    pub(super) fn to_json(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut all = Map::new();
        if let Some(id) = &self.id {
            all.insert(ID.to_owned(), json!(id));
        }
        if let Some(key) = &self.key {
            all.insert(KEY.to_owned(), json!(BASE64_STANDARD.encode(key)));
        }
        if let Some(content_type) = &self.content_type {
            all.insert(CONTENT_TYPE.to_owned(), json!(content_type));
        }
        if let Some(headers) = &self.headers {
            let headers = headers.iter().map(Header::to_json).collect();
            all.insert(HEADERS.to_owned(), Value::Array(headers));
        }
        Some(sendable_json(Value::Object(all).to_string()))
    }

    /// What the attribute holds; nothing where it is not of this format.
    #[cfg(feature = "sqs")]
    pub(super) fn from_json(json: &str) -> Self {
        let Ok(Value::Object(all)) = serde_json::from_str(json) else {
            return Self::default();
        };
        let text = |name: &str| all.get(name).and_then(Value::as_str);
        let headers = all.get(HEADERS).and_then(Value::as_array);
        Self {
            id: text(ID).map(str::to_owned),
            key: text(KEY).and_then(|key| BASE64_STANDARD.decode(key).ok()),
            content_type: text(CONTENT_TYPE).map(str::to_owned),
            headers: headers.map(|all| all.iter().filter_map(Header::from_json).collect()),
        }
    }
}

impl Header {
    fn to_json(&self) -> Value {
        match self {
            Self::Attribute(name) => json!(name),
            Self::Packed(name, value) => match std::str::from_utf8(value) {
                Ok(text) => json!([name, text]),
                Err(_) => json!([name, BASE64_STANDARD.encode(value), super::BASE64]),
            },
        }
    }

    #[cfg(feature = "sqs")]
    fn from_json(json: &Value) -> Option<Self> {
        if let Some(name) = json.as_str() {
            return Some(Self::Attribute(name.to_owned()));
        }
        let parts: Option<Vec<_>> = json.as_array()?.iter().map(Value::as_str).collect();
        match parts?[..] {
            [name, text] => Some(Self::Packed(name.to_owned(), text.into())),
            [name, data, super::BASE64] => {
                let data = BASE64_STANDARD.decode(data).ok()?;
                Some(Self::Packed(name.to_owned(), data))
            }
            _ => None,
        }
    }
}
