use std::io::{Read, Write};
use std::net::TcpStream;

use streams_services::{Etcd, Nats, Redis};

use crate::{SOON, assert_only_on_loopback, crash, exchange, post};

#[test]
fn redis() {
    let redis = Redis::new().start().unwrap();
    assert_only_on_loopback(&redis);
    assert_eq!(
        exchange(redis.address(), "SET k v\r\nQUIT\r\n"),
        "+OK\r\n+OK\r\n"
    );
    crash(&redis);
    assert_eq!(
        exchange(redis.address(), "GET k\r\nQUIT\r\n"),
        "$1\r\nv\r\n+OK\r\n"
    );
    assert!(redis.stop(), "{}", redis.log());
    assert!(redis.stop(), "nothing to do");
    assert!(redis.wait_ready().is_err());
}

#[test]
fn durable_redis() {
    let redis = Redis::new().durable().start().unwrap();
    let answer = exchange(redis.address(), "CONFIG GET appendfsync\r\nQUIT\r\n");
    assert!(answer.contains("always"), "{answer}");
}

#[test]
fn a_paused_server_accepts_and_does_not_answer_until_it_is_resumed() {
    let redis = Redis::new().start().unwrap();
    let mut connection = TcpStream::connect(redis.address()).unwrap();
    redis.pause();
    connection.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    connection.set_read_timeout(Some(SOON / 100)).unwrap();
    assert!(connection.read(&mut answer).is_err());
    redis.resume();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    redis.pause();
    assert!(redis.stop(), "it is resumed to be stopped");
}

#[test]
fn servers_run_beside_each_other_and_their_data_goes_with_them() {
    let servers: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Redis::new().start().unwrap()))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    let mut ports: Vec<_> = servers
        .iter()
        .map(|server| server.address().port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 8);
    let folder = |server: &streams_services::Server| {
        let answer = exchange(server.address(), "CONFIG GET dir\r\nQUIT\r\n");
        answer
            .lines()
            .find(|line| line.starts_with('/'))
            .unwrap()
            .to_owned()
    };
    let folders: Vec<_> = servers.iter().map(folder).collect();
    assert!(
        folders
            .iter()
            .all(|folder| std::path::Path::new(folder).exists())
    );
    drop(servers);
    assert!(
        !folders
            .iter()
            .any(|folder| std::path::Path::new(folder).exists())
    );
}

#[test]
fn etcd() {
    let etcd = Etcd::new().start().unwrap();
    assert_only_on_loopback(&etcd);
    // "k" and "v" in base 64.
    post(
        etcd.address(),
        "/v3/kv/put",
        &[],
        r#"{"key": "aw==", "value": "dg=="}"#,
    );
    crash(&etcd);
    let answer = post(etcd.address(), "/v3/kv/range", &[], r#"{"key": "aw=="}"#);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
    assert!(etcd.stop(), "{}", etcd.log());
}

#[test]
fn nats() {
    let nats = Nats::new().start().unwrap();
    assert_only_on_loopback(&nats);
    crash(&nats);
    let mut connection = TcpStream::connect(nats.address()).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection
        .write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")
        .unwrap();
    let mut answer = String::new();
    while !answer.contains("PONG") {
        let mut part = [0; 4096];
        let length = connection.read(&mut part).unwrap();
        assert_ne!(length, 0, "{answer}");
        answer += std::str::from_utf8(&part[..length]).unwrap();
    }
    assert!(answer.contains("\"jetstream\":true"), "{answer}");
    assert!(nats.stop(), "{}", nats.log());
}
