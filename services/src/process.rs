//! Processes that die with their parent, however it dies.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{io, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;
use crate::{Error, Result};

/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(10);

/// A running program and all that it started itself.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Runs it with its output appended to `log`.
    pub(crate) fn spawn(command: &Command, user: Option<&str>, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(Error::doing(log.display()))?;
        let errors = output.try_clone().map_err(Error::doing(log.display()))?;
        let mut bound = bound_to_parent(command, user);
        bound.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn_in_lasting_thread(bound).map_err(|error| {
            let program = command.get_program().to_string_lossy();
            Error::new(format!(
                "cannot start `setpriv .. {program}`: {error}; `setpriv` is in the Debian package \
                 util-linux"
            ))
        })?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, waits so long, then kills it. Whether it ended by itself.
    pub(crate) fn terminate(&mut self, patience: Duration) -> bool {
        if self.exited().is_none() {
            let _ = kill_process(self.pid, Signal::TERM);
        }
        let ended = until(patience, || self.exited()).is_some();
        if !ended {
            self.kill();
        }
        ended
    }

    /// SIGKILL, to it and all that it started; returns when they are gone.
    pub(crate) fn kill(&mut self) {
        if self.exited().is_some() {
            return;
        }
        // Stopped first: what does not run starts nothing while it is being killed.
        let family = self.signal(Signal::STOP);
        for pid in &family {
            let _ = kill_process(*pid, Signal::KILL);
        }
        let _ = self.child.wait();
        let gone = until(DYING, || {
            let alive = parents();
            (!family.iter().any(|pid| alive.contains_key(pid))).then_some(())
        });
        debug_assert!(gone.is_some(), "{family:?} outlived SIGKILL");
    }

    /// SIGSTOP, to it and all that it started.
    pub(crate) fn pause(&mut self) {
        if self.exited().is_none() {
            self.signal(Signal::STOP);
        }
    }

    /// SIGCONT, to it and all that it started.
    pub(crate) fn resume(&mut self) {
        if self.exited().is_none() {
            self.signal(Signal::CONT);
        }
    }

    /// To it first, then to its descendants; returns them all.
    fn signal(&self, signal: Signal) -> Vec<Pid> {
        let mut family = vec![self.pid];
        let mut next = 0;
        while let Some(&pid) = family.get(next) {
            let _ = kill_process(pid, signal);
            next += 1;
            let children = parents()
                .into_iter()
                .filter(|(_, parent)| *parent == Some(pid))
                .map(|(child, _)| child);
            for child in children {
                if !family.contains(&child) {
                    family.push(child);
                }
            }
        }
        family
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command as `user`, if it is to be another one than this process is.
pub(crate) fn as_user(command: &Command, user: Option<&str>) -> Command {
    under_setpriv(command, user, &[])
}

/// The command killed by the kernel when its parent is gone. In a process group of its own, so that
/// Ctrl-C reaches the parent alone.
fn bound_to_parent(command: &Command, user: Option<&str>) -> Command {
    let mut bound = under_setpriv(command, user, &["--pdeathsig", "KILL"]);
    std::os::unix::process::CommandExt::process_group(&mut bound, 0);
    bound
}

fn under_setpriv(command: &Command, user: Option<&str>, options: &[&str]) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(options);
    if let Some(user) = user {
        bound.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    bound
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// The signal of `--pdeathsig` comes when the *thread* that started the process ends. The thread of a
/// test ends long before the test's process, so one thread that never ends starts them all.
fn spawn_in_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        let _ = thread::Builder::new()
            .name("streams-services".to_owned())
            .spawn(move || {
                for (mut command, reply) in received {
                    let _ = reply.send(command.spawn());
                }
            });
        orders
    });
    let (reply, child) = channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.send((command, reply)).map_err(|_| gone(()))?;
    child.recv().map_err(|_| gone(()))?
}

/// Every process that is not dead, and its parent.
fn parents() -> HashMap<Pid, Option<Pid>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(parse) else {
            continue;
        };
        // `4711 (name that may have anything) S 1 ..`: state and parent stand behind the name.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut words = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace();
        match words.next() {
            None | Some("Z" | "X") => {}
            Some(_) => {
                parents.insert(pid, words.next().and_then(parse));
            }
        }
    }
    parents
}

fn parse(pid: &str) -> Option<Pid> {
    Pid::from_raw(pid.parse().ok()?)
}
