use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::Proxy;

/// Long enough for anything on loopback, and for a test to notice that nothing comes.
const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(200);

/// Sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let connect = TcpStream::connect(proxy.address());
    soon(connect).await.unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it comes")
}

async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
    answer(stream).await;
}

async fn answer(stream: &mut TcpStream) {
    let mut answer = [0; 5];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"hello");
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(NEVER, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn it_passes_on_and_closes_as_its_ends_do() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = connect(&proxy).await;
    ask(&mut stream).await;
    let data = vec![7; 3_000_000];
    let (mut from, mut to) = stream.into_split();
    let write = async {
        to.write_all(&data).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = soon(async { tokio::join!(write, from.read_to_end(&mut back)) }).await;
    read.unwrap();
    assert!(back == data);
}

#[tokio::test]
async fn a_cut_network_is_silent_until_it_is_mended() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut old = connect(&proxy).await;
    ask(&mut old).await;
    proxy.cut();
    let mut new = connect(&proxy).await;
    old.write_all(b"hello").await.unwrap();
    new.write_all(b"hello").await.unwrap();
    assert!(is_silent(&mut old).await);
    assert!(is_silent(&mut new).await);
    proxy.mend(Duration::ZERO);
    answer(&mut old).await;
    answer(&mut new).await;
}

#[tokio::test]
async fn a_cut_network_does_not_tell_that_a_connection_was_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
    let client = connect(&proxy).await;
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    proxy.cut();
    drop(client);
    assert!(is_silent(&mut server).await);
    proxy.mend(Duration::ZERO);
    assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn latency_is_that_of_both_ways_and_does_not_add_up() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = connect(&proxy).await;
    ask(&mut stream).await;
    proxy.mend(Duration::from_millis(100));
    let start = Instant::now();
    for _ in 0..10 {
        stream.write_all(b"hello").await.unwrap();
    }
    for _ in 0..10 {
        answer(&mut stream).await;
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_millis(1000), "{took:?}");
}

#[tokio::test]
async fn a_reset_breaks_connections_and_allows_new_ones() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut old = connect(&proxy).await;
    ask(&mut old).await;
    proxy.cut();
    proxy.reset();
    let error = soon(old.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.mend(Duration::ZERO);
    ask(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn a_slow_network_is_as_slow_as_said() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = connect(&proxy).await;
    proxy.limit(50_000);
    let start = Instant::now();
    stream.write_all(&[7; 25_000]).await.unwrap();
    soon(stream.read_exact(&mut [0; 25_000])).await.unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    proxy.mend(Duration::ZERO);
    ask(&mut stream).await;
}

#[tokio::test]
async fn a_server_that_is_down_breaks_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy = Proxy::start(address).await.unwrap();
    let mut stream = connect(&proxy).await;
    assert!(soon(stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn a_dropped_proxy_breaks_its_connections_and_listens_no_more() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let address = proxy.address();
    let mut stream = connect(&proxy).await;
    ask(&mut stream).await;
    drop(proxy);
    assert!(soon(stream.read_u8()).await.is_err());
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
}
