use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, thread};

use streams_services::Redis;

use crate::{SOON, exchange};

/// Set for the process that starts a server and is killed.
const CHILD: &str = "STREAMS_SERVICES_TEST_CHILD";

#[test]
fn a_server_outlives_the_thread_that_started_it_and_dies_with_its_process() {
    if env::var_os(CHILD).is_some() {
        child();
        return;
    }
    let test = thread::current().name().unwrap().to_owned();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("server: ")?.1.to_owned()))
        .unwrap();
    let (pid, folder) = told.split_once(' ').unwrap();
    let server = Path::new("/proc").join(pid);
    let folder = Path::new(folder);
    assert!(server.exists() && folder.exists());

    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let deadline = Instant::now() + SOON;
    while !is_dead(&server) || folder.exists() {
        assert!(Instant::now() < deadline, "{told}");
        thread::yield_now();
    }
}

fn child() {
    let start = || Redis::new().start().unwrap();
    let redis = thread::spawn(start).join().unwrap();
    let answer = exchange(redis.address(), "CONFIG GET dir\r\nQUIT\r\n");
    let folder = answer.lines().find(|line| line.starts_with('/')).unwrap();
    println!("\nserver: {} {folder}", redis.pid().unwrap());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Gone, or waiting for whoever is to collect it.
fn is_dead(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}
