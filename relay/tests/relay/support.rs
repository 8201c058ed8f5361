//! The program, run as a process.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streams_core::{Message, MessageId};

/// Longer than anything takes: who waits so long has found a fault.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What is shown nowhere: the password of URLs.
pub(crate) const SECRET: &str = "hunter2";

/// The program with no settings but these. The address of `/metrics` is a free port.
pub(crate) fn program(settings: &[(&str, &str)]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_streams-relay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STREAMS_RELAY_") {
            program.env_remove(name);
        }
    }
    program.args(["--http-listen", "127.0.0.1:0"]);
    for (name, value) in settings {
        program.arg(format!("--{name}")).arg(value);
    }
    program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    program
}

/// Runs it to its end; code, standard output and standard error.
pub(crate) fn finish(mut program: Command) -> (Option<i32>, String, String) {
    let output = program.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// What the program says of these settings, besides its code 2. No secret is in it.
pub(crate) fn refusal(settings: &[&str]) -> String {
    let mut relay = program(&[]);
    relay.args(settings);
    let (code, output, errors) = finish(relay);
    assert_eq!((code, output.as_str()), (Some(2), ""), "{errors}");
    assert!(!errors.contains(SECRET), "{errors}");
    let said = errors.strip_prefix("error: ").unwrap();
    said.strip_suffix('\n').unwrap().to_owned()
}

/// The program while it runs. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    log: Receiver<String>,
    seen: String,
    /// Standard output, unless it was taken.
    pub(crate) output: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(mut program: Command) -> Self {
        let mut child = program.spawn().unwrap();
        let (to, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        let output = child.stdout.take().map(BufReader::new);
        Self {
            child,
            log,
            seen: String::new(),
            output,
        }
    }

    /// The next line of the log that has this in it.
    pub(crate) fn logged(&mut self, what: &str) -> String {
        loop {
            let Ok(line) = self.log.recv_timeout(LONG) else {
                panic!("`{what}` was not logged:\n{}", self.seen);
            };
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(what) {
                return line;
            }
        }
    }

    /// The address of `/metrics`.
    pub(crate) fn address(&mut self) -> String {
        let line = self.logged("health and metrics are served");
        let (_, address) = line.split_once("127.0.0.1:").unwrap();
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{port}")
    }

    /// The next line of standard output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{line:?} after\n{}", self.log());
        line
    }

    /// What is left of standard output until its end.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = String::new();
        self.output
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end. Standard output has to be read meanwhile, if it is much.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// All that was logged until now, or until the end.
    pub(crate) fn log(&mut self) -> String {
        while let Ok(line) = self.log.recv_timeout(Duration::from_millis(200)) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        self.seen.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it is so.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "it never was");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Checks that each message of `written` is among `ids`, the first time in the order written. Returns
/// how many came again.
pub(crate) fn duplicates(ids: &[String], written: &[Message]) -> usize {
    let mut seen = HashSet::new();
    let first: Vec<_> = ids.iter().filter(|id| seen.insert(id.as_str())).collect();
    let written: Vec<_> = written.iter().map(|one| one.id().as_str()).collect();
    assert_eq!(first, written, "in the order written, none lost");
    ids.len() - first.len()
}

/// Asks over HTTP; code and body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (code, body.to_owned())
}

/// The value of a metric of the default table.
pub(crate) fn metric(address: &str, name: &str) -> Option<f64> {
    let (_, body) = get(address, "/metrics");
    let start = format!("{name}{{table=\"streams_egress\"}} ");
    let line = body.lines().find_map(|line| line.strip_prefix(&start));
    line.map(|value| value.parse().unwrap())
}

/// A folder with a database of SQLite.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The URL of its database, which is made when it is used.
    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}?mode=rwc", self.path().join("app.db").display())
    }

    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.path().join("relay.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Message `n` of a key.
pub(crate) fn message(stream: &str, key: &str, n: usize) -> Message {
    Message::builder(stream)
        .id(MessageId::new(format!("{key}-{n}")).unwrap())
        .key(key)
        .data(format!("{{\"n\":{n}}}"))
        .build()
        .unwrap()
}
