use std::net::TcpStream;
use std::process::Command;

use streams_services::{MariaDb, Postgres, Server};

use crate::{assert_only_on_loopback, crash};

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn psql(server: &Server, statement: &str) -> String {
    output(Command::new("psql").args([&server.url(), "-At", "-c", statement]))
}

fn mariadb(server: &Server, statement: &str) -> String {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "-N", "-u", "root", "-h", "127.0.0.1"])
        .args(["-P", &server.address().port().to_string()])
        .args(["-D", server.url().rsplit('/').next().unwrap()]);
    output(command.args(["-e", statement]))
}

#[test]
fn postgres() {
    let postgres = Postgres::new().start().unwrap();
    assert_only_on_loopback(&postgres);
    assert_eq!(psql(&postgres, "SHOW wal_level"), "logical");
    assert_eq!(psql(&postgres, "SHOW fsync"), "off");
    psql(&postgres, "CREATE TABLE t AS SELECT 7 AS n");
    crash(&postgres);
    assert_eq!(psql(&postgres, "SELECT n FROM t"), "7");
    // Its own idle processes, one for each connection, do not outlive it.
    let connection = TcpStream::connect(postgres.address()).unwrap();
    crash(&postgres);
    drop(connection);
    assert!(postgres.stop(), "{}", postgres.log());
}

#[test]
fn durable_postgres() {
    let postgres = Postgres::new().durable().start().unwrap();
    assert_eq!(psql(&postgres, "SHOW fsync"), "on");
    assert_eq!(psql(&postgres, "SHOW synchronous_commit"), "on");
}

#[test]
fn mariadb_server() {
    let server = MariaDb::new().start().unwrap();
    assert_only_on_loopback(&server);
    mariadb(&server, "CREATE TABLE t AS SELECT 7 AS n");
    crash(&server);
    assert_eq!(
        mariadb(&server, "SELECT n FROM t FOR UPDATE SKIP LOCKED"),
        "7"
    );
    assert!(server.stop(), "{}", server.log());
}

#[test]
fn durable_mariadb() {
    let server = MariaDb::new().durable().start().unwrap();
    let flush = "SELECT @@innodb_flush_log_at_trx_commit";
    assert_eq!(mariadb(&server, flush), "1");
}
