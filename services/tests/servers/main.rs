//! Every server is really started, asked something by words of its own, killed and started again.

mod aws;
mod databases;
mod parent;
mod small;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use streams_services::Server;

/// Long enough for anything on loopback.
const SOON: Duration = Duration::from_secs(20);

/// What comes back until the server closes the connection.
fn exchange(address: SocketAddr, words: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The answer to a POST; it must be a good one.
fn post(address: SocketAddr, path: &str, headers: &[&str], body: &str) -> String {
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let answer = exchange(address, &request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// As a crash: it is gone at once, and comes back where it was.
fn crash(server: &Server) {
    let (address, pid) = (server.address(), server.pid().unwrap());
    server.kill();
    assert_eq!(server.pid(), None);
    assert!(TcpStream::connect(address).is_err());
    server.restart().unwrap();
    server.wait_ready().unwrap();
    assert_eq!(server.address(), address);
    assert_ne!(server.pid(), Some(pid));
}

/// All of 127/8 is this machine, but only 127.0.0.1 is where servers are to listen.
fn assert_only_on_loopback(server: &Server) {
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], server.address().port()));
    assert!(TcpStream::connect(elsewhere).is_err());
}
