//! What several tests need.

use streams_core::Message;

pub(crate) fn message(stream: &str, key: Option<&str>, data: &str) -> Message {
    let builder = Message::builder(stream).data(data.to_owned());
    match key {
        Some(key) => builder.key(key),
        None => builder,
    }
    .build()
    .unwrap()
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.data().to_vec()).unwrap()
}
