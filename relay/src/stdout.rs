//! The destination `stdout:`: a line of JSON for each message.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use streams_core::{
    Capabilities, Driver, DriverUrl, Error, ErrorKind, Message, OpenDriver, ReadOptions, Reader,
    Result, Subscription, WriteError, Writer, async_trait,
};
use tokio::io::{AsyncWriteExt as _, Stdout};
use tokio::sync::{Mutex, OwnedMutexGuard};

const DRIVER: &str = "stdout";

/// Standard output. It can only be written to.
#[derive(Clone)]
pub(crate) struct StandardOutput(Arc<Inner>);

struct Inner {
    /// One batch at a time, so that lines do not mix.
    output: Arc<Mutex<Stdout>>,
    closed: AtomicBool,
    capabilities: Capabilities,
}

impl Driver for StandardOutput {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.clone())
    }

    fn writer(&self) -> Arc<dyn Writer> {
        Arc::new(self.clone())
    }
}

impl OpenDriver for StandardOutput {
    const SCHEMES: &'static [&'static str] = &["stdout"];
    const PARAMETERS: &'static [&'static str] = &[];

    async fn open(url: &DriverUrl) -> Result<Self> {
        if !url.hosts().is_empty() || !url.path().is_empty() {
            return Err(Error::invalid_config(
                "the URL of standard output is `stdout:`, with nothing after it",
            )
            .driver(DRIVER));
        }
        Ok(Self(Arc::new(Inner {
            output: Arc::new(Mutex::new(tokio::io::stdout())),
            closed: AtomicBool::new(false),
            capabilities: Capabilities::none(DRIVER)
                .creates_streams(true)
                .binary_headers(true),
        })))
    }
}

#[async_trait]
impl Writer for StandardOutput {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let mut lines = Vec::new();
        for message in batch {
            let line = Line::of(message);
            serde_json::to_writer(&mut lines, &line).map_err(|error| failed(batch, &error))?;
            lines.push(b'\n');
        }
        let output = self.0.output.clone().lock_owned().await;
        if self.0.closed.load(Ordering::Acquire) {
            return Err(WriteError::all(batch.len(), || {
                Error::closed("the writer").driver(DRIVER)
            }));
        }
        // In a task of its own: if this call is dropped, no half of a line stays behind.
        let writing = tokio::spawn(write(output, lines));
        match writing.await {
            Ok(written) => written.map_err(|error| failed(batch, &error)),
            Err(error) => Err(failed(batch, &error)),
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(()) // each write does
    }

    async fn close(&self) -> Result<()> {
        let _writing = self.0.output.lock().await;
        self.0.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }
}

async fn write(mut output: OwnedMutexGuard<Stdout>, lines: Vec<u8>) -> io::Result<()> {
    output.write_all(&lines).await?;
    output.flush().await
}

fn failed(batch: &[Message], error: &dyn std::fmt::Display) -> WriteError {
    WriteError::all(batch.len(), || {
        Error::new(
            ErrorKind::Unavailable,
            format!("standard output cannot be written to: {error}; see who reads it"),
        )
        .operation("write")
        .driver(DRIVER)
    })
}

#[async_trait]
impl Reader for StandardOutput {
    async fn subscribe(&self, _: &ReadOptions) -> Result<Box<dyn Subscription>> {
        Err(Error::unsupported(
            DRIVER,
            "standard output cannot be read from",
        ))
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }
}

/// A message as a line. What is not UTF-8 is in the field ending in `_base64` instead.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    time: String,
    content_type: &'a str,
    /// Each name with its values, of which there may be several.
    headers: BTreeMap<&'a str, Vec<Value<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(&'a str),
    Bytes { base64: String },
}

impl<'a> Line<'a> {
    fn of(message: &'a Message) -> Self {
        let split = |bytes: &'a [u8]| match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(STANDARD.encode(bytes))),
        };
        let key = message.key().map(|key| split(key.as_bytes()));
        let (key, key_base64) = key.unwrap_or_default();
        let (data, data_base64) = split(message.data());
        let mut headers = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in message.headers().iter() {
            let value = match split(value) {
                (Some(text), _) => Value::Text(text),
                (None, base64) => Value::Bytes {
                    base64: base64.unwrap_or_default(),
                },
            };
            headers.entry(name).or_default().push(value);
        }
        Self {
            id: message.id().as_str(),
            stream: message.stream().as_str(),
            key,
            key_base64,
            time: humantime::format_rfc3339_millis(message.time()).to_string(),
            content_type: message.content_type().as_str(),
            headers,
            data,
            data_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streams_core::{Key, MessageId, from_unix_millis};

    fn line(message: &Message) -> String {
        serde_json::to_string(&Line::of(message)).unwrap()
    }

    #[test]
    fn text_is_text_and_bytes_are_base64() {
        let message = Message::builder("a.b")
            .id(MessageId::new("1").unwrap())
            .key("k")
            .header("h", "v")
            .time(from_unix_millis(1_700_000_000_123))
            .data("{\"x\":1}\n")
            .build()
            .unwrap();
        assert_eq!(
            line(&message),
            r#"{"id":"1","stream":"a.b","key":"k","time":"2023-11-14T22:13:20.123Z","content_type":"application/octet-stream","headers":{"h":["v"]},"data":"{\"x\":1}\n"}"#
        );
        let message = message
            .to_builder()
            .key(Key::from(&[0xff][..]))
            .header("h", vec![0xfe])
            .data(vec![0xff, 0])
            .build()
            .unwrap();
        let line = line(&message);
        for field in [
            r#""key_base64":"/w==""#,
            r#""headers":{"h":[{"base64":"/g=="}]}"#,
            r#""data_base64":"/wA=""#,
        ] {
            assert!(line.contains(field), "{line}");
        }
        assert!(!line.contains(r#""data":"#), "{line}");
    }

    #[tokio::test]
    async fn its_url_takes_nothing_else() {
        for url in ["stdout://host", "stdout:file"] {
            let url = DriverUrl::parse(url).unwrap();
            let error = StandardOutput::open(&url).await.map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("`stdout:`"), "{error}");
        }
    }
}
