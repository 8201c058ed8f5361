//! What somebody writes who uses the client alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, MessageAttributeValue, SendMessageBatchRequestEntry,
};
use streams_core::{Message, unix_millis};
use tokio::task::JoinSet;

/// Sends the messages in batches of ten, so many at the same time.
pub(crate) async fn write(
    client: &Client,
    url: &str,
    messages: &[Message],
    at_once: usize,
) -> Duration {
    let start = Instant::now();
    let batches: Vec<_> = messages.chunks(10).map(<[Message]>::to_vec).collect();
    let batches = Arc::new(Mutex::new(batches));
    let mut senders = JoinSet::new();
    for _ in 0..at_once {
        let (client, url, batches) = (client.clone(), url.to_owned(), batches.clone());
        senders.spawn(async move {
            loop {
                let batch = batches.lock().expect("not poisoned").pop();
                let Some(batch) = batch else { break };
                let mut request = client.send_message_batch().queue_url(&url);
                for (at, message) in batch.iter().enumerate() {
                    request = request.entries(entry(at, message));
                }
                let sent = request.send().await.expect("sent");
                assert!(sent.failed().is_empty());
            }
        });
    }
    while let Some(done) = senders.join_next().await {
        done.expect("sending does not panic");
    }
    start.elapsed()
}

fn entry(at: usize, message: &Message) -> SendMessageBatchRequestEntry {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let key = message
        .key()
        .map_or(String::new(), |key| text(key.as_bytes()));
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(at.to_string())
        .message_body(text(message.data()));
    for (name, value) in [
        ("streams-message-id", message.id().to_string()),
        ("streams-stream-name", message.stream().to_string()),
        ("streams-stream-key", key),
        ("streams-content-type", message.content_type().to_string()),
        (
            "streams-message-time",
            unix_millis(message.time()).to_string(),
        ),
    ] {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value);
        entry = entry.message_attributes(name, value.build().expect("complete"));
    }
    entry.build().expect("complete")
}

/// Receives and deletes so many messages, ten in a request, with so many loops at the same time.
pub(crate) async fn read(client: &Client, url: &str, messages: usize, at_once: usize) -> Duration {
    let start = Instant::now();
    let read = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..at_once {
        let (client, url, read) = (client.clone(), url.to_owned(), read.clone());
        readers.spawn(async move {
            while read.load(Ordering::Relaxed) < messages {
                let request = client
                    .receive_message()
                    .queue_url(&url)
                    .max_number_of_messages(10)
                    .wait_time_seconds(1)
                    .message_attribute_names("All")
                    .message_system_attribute_names(
                        aws_sdk_sqs::types::MessageSystemAttributeName::All,
                    );
                let received = request.send().await.expect("received");
                let received = received.messages.unwrap_or_default();
                if received.is_empty() {
                    continue;
                }
                let mut request = client.delete_message_batch().queue_url(&url);
                for (at, message) in received.iter().enumerate() {
                    let entry = DeleteMessageBatchRequestEntry::builder()
                        .id(at.to_string())
                        .set_receipt_handle(message.receipt_handle.clone());
                    request = request.entries(entry.build().expect("complete"));
                }
                let deleted = request.send().await.expect("deleted");
                assert!(deleted.failed().is_empty());
                read.fetch_add(received.len(), Ordering::Relaxed);
            }
            Instant::now()
        });
    }
    // The first that finds all read: the others may wait for messages that do not come.
    let end = readers.join_next().await.expect("a reader");
    let end = end.expect("reading does not panic");
    while let Some(done) = readers.join_next().await {
        done.expect("reading does not panic");
    }
    end - start
}
