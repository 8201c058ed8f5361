//! `cargo xtask services`, with a real server.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A target folder of its own, so that it disturbs no servers of the developer.
struct Target(PathBuf);

impl Target {
    fn new(name: &str) -> Self {
        let folder = format!("streams-xtask-test-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(folder))
    }

    fn services(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("services")
            .args(arguments)
            .env("CARGO_TARGET_DIR", &self.0)
            .env_remove("STREAMS_REDIS_URL")
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.services(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.services(&["down"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn servers_run_from_up_to_down() {
    let target = Target::new("up");
    assert!(target.succeeds(&["status"]).starts_with("no servers run"));

    let exports = target.succeeds(&["up", "redis"]);
    let address = exports
        .trim()
        .strip_prefix("export STREAMS_REDIS_URL=redis://")
        .unwrap();
    TcpStream::connect(address).unwrap();
    let again = target.services(&["up", "redis"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), exports);
    assert_eq!(
        String::from_utf8(again.stderr).unwrap(),
        "redis already runs\n"
    );

    let status = target.succeeds(&["status"]);
    let words: Vec<_> = status.split_whitespace().collect();
    let [name, state, pid, url] = words[..] else {
        panic!("{status}")
    };
    assert_eq!(
        (name, state, url),
        ("redis", "up", &*format!("redis://{address}"))
    );
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());

    // A server that has crashed is said to be down.
    assert!(
        Command::new("kill")
            .args(["-KILL", pid])
            .status()
            .unwrap()
            .success()
    );
    while TcpStream::connect(address).is_ok() {}
    assert!(target.succeeds(&["status"]).contains(" down "));

    target.succeeds(&["down"]);
    assert!(target.succeeds(&["status"]).starts_with("no servers run"));
    target.succeeds(&["down"]);
}

#[test]
fn what_is_not_known_is_refused_with_what_is() {
    let output = Target::new("unknown").services(&["up", "oracle"]);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("`oracle`") && error.contains("redis"),
        "{error}"
    );
}
