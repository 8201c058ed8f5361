//! Asking servers something, to learn whether they answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Error, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says something and returns the first that comes back.
pub(crate) fn say(address: SocketAddr, words: &[u8]) -> Result<Vec<u8>> {
    let mut answer = vec![0; 4096];
    let length = connect(address)
        .and_then(|mut stream| {
            stream.write_all(words)?;
            stream.read(&mut answer)
        })
        .map_err(Error::doing("no answer"))?;
    answer.truncate(length);
    Ok(answer)
}

/// Fails unless the first that comes back begins like this.
pub(crate) fn expect(address: SocketAddr, words: &[u8], beginning: &[u8]) -> Result {
    let answer = say(address, words)?;
    if answer.starts_with(beginning) {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&answer);
    Err(Error::new(format!("the answer is {answer:?}")))
}

/// Fails unless a page is there.
pub(crate) fn http(address: SocketAddr, path: &str) -> Result {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    expect(address, request.as_bytes(), b"HTTP/1.1 200")
}

pub(crate) fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
