//! A message as a file: a line of JSON, then the data as it is.

use serde::{Deserialize, Serialize};
use streams_core::{Key, Message, MessageId, Result, StreamName, from_unix_millis, unix_millis};

#[derive(Serialize, Deserialize)]
struct Head {
    id: String,
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    content_type: String,
    time: i64,
}

/// What the file of a message holds.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    let headers = message.headers().iter();
    let head = Head {
        id: message.id().to_string(),
        key: message.key().map(|key| key.as_bytes().to_vec()),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect(),
        content_type: message.content_type().to_string(),
        time: unix_millis(message.time()),
    };
    let mut file = serde_json::json!(head).to_string().into_bytes();
    file.push(b'\n');
    file.extend_from_slice(message.data());
    file
}

/// The message a file holds. A file that this driver has not written is a message too: its content
/// is the data, and its id is made from where it lies, the same each time it is read.
pub(crate) fn decode(stream: &StreamName, sequence: u64, file: &[u8]) -> Result<Message> {
    let parts = file
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|end| (&file[..end], &file[end + 1..]));
    let own =
        parts.and_then(|(head, data)| Some((serde_json::from_slice::<Head>(head).ok()?, data)));
    let Some((head, data)) = own else {
        let id = MessageId::new(format!("file-{sequence}"))?;
        return Message::builder(stream)
            .id(id)
            .data(file.to_vec())
            .build_received();
    };
    Message::builder(stream)
        .id(MessageId::new(head.id)?)
        .maybe_key(head.key.map(|key| Key::from(&key[..])))
        .headers(head.headers.into_iter().collect())
        .content_type(head.content_type)
        .data(data.to_vec())
        .time(from_unix_millis(head.time))
        .build_received()
}
