//! A consumer group: how far it has come, and who is at what.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind::NotFound;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use streams_core::{
    AckToken, Delivery, Result, SettleAction, Settlement, TokenId, ksuid, unix_millis,
};

use crate::error::{damaged, file_error};
use crate::stream::{Stream, encode_name, lock, replace};

/// What the file of a group holds.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Every message before this one is done.
    position: u64,
    /// Those from there on that the group has met.
    entries: BTreeMap<u64, Entry>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    attempt: u32,
    progress: Progress,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
enum Progress {
    /// This member is handling it.
    Claimed(String),
    /// To be delivered again, not before this time in Unix milliseconds.
    Waiting(i64),
    Done,
}

fn now() -> i64 {
    unix_millis(SystemTime::now())
}

#[derive(Debug)]
pub(crate) struct Group {
    stream: Stream,
    path: PathBuf,
}

/// A reader of a group. The system drops its lock when the process dies, however it dies; that is
/// how the others know.
#[derive(Debug)]
pub(crate) struct Member {
    id: String,
    _lock: File,
}

impl Group {
    /// Opens a group; one that is new begins where `start` says.
    pub(crate) fn open(
        stream: Stream,
        name: &str,
        start: impl FnOnce(&Stream) -> Result<u64>,
    ) -> Result<Self> {
        let path = stream.path.join("groups").join(encode_name(name)?);
        fs::create_dir_all(path.join("members"))
            .map_err(|error| file_error("subscribe", &path, error))?;
        let group = Self { stream, path };
        let _lock = lock("subscribe", &group.path.join("lock"))?;
        if !group.state_path().exists() {
            let position = start(&group.stream)?;
            let entries = BTreeMap::new();
            group.store("subscribe", &State { position, entries })?;
        }
        Ok(group)
    }

    pub(crate) fn join(&self) -> Result<Member> {
        let id = ksuid()?.to_string();
        let lock = lock("subscribe", &self.member_path(&id))?;
        Ok(Member { id, _lock: lock })
    }

    fn state_path(&self) -> PathBuf {
        self.path.join("state")
    }

    fn member_path(&self, id: &str) -> PathBuf {
        self.path.join("members").join(id)
    }

    /// Whether a member holds its lock. One that has died leaves it free.
    fn is_alive(&self, id: &str) -> Result<bool> {
        let path = self.member_path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == NotFound => return Ok(false),
            Err(error) => return Err(file_error("receive", &path, error)),
        };
        match file.try_lock() {
            Ok(()) => {
                let _ = fs::remove_file(&path);
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(file_error("receive", &path, error)),
        }
    }

    fn store(&self, operation: &'static str, state: &State) -> Result<()> {
        let path = self.state_path();
        let text = serde_json::to_vec(state).map_err(|error| damaged(operation, &path, error))?;
        replace(operation, &path, &text)
    }

    /// Reads the state, changes it and writes it back, while nobody else does.
    fn change<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let _lock = lock(operation, &self.path.join("lock"))?;
        let path = self.state_path();
        let text = fs::read(&path).map_err(|error| file_error(operation, &path, error))?;
        let mut state: State =
            serde_json::from_slice(&text).map_err(|error| damaged(operation, &path, error))?;
        let before = state.clone();
        let result = change(&mut state)?;
        while state
            .entries
            .get(&state.position)
            .is_some_and(|entry| entry.progress == Progress::Done)
        {
            state.entries.remove(&state.position);
            state.position += 1;
        }
        if state != before {
            self.store(operation, &state)?;
        }
        Ok(result)
    }

    /// Takes up to `max` messages for a member, in the order written. A key of which another member
    /// has a message, or one waits for its retry, is left alone: its order would suffer.
    pub(crate) fn claim(&self, member: &Member, max: usize) -> Result<Vec<Delivery>> {
        self.change("receive", |state| {
            let (now, end) = (now(), self.stream.end()?);
            let mut busy = HashSet::new();
            let mut claimed = Vec::new();
            for sequence in state.position..end {
                if claimed.len() == max {
                    break;
                }
                let entry = state.entries.get(&sequence);
                let is_free = match entry.map(|entry| &entry.progress) {
                    Some(Progress::Done) => continue,
                    Some(Progress::Claimed(holder)) if *holder == member.id => continue,
                    Some(Progress::Claimed(holder)) => !self.is_alive(holder)?,
                    Some(Progress::Waiting(due)) => *due <= now,
                    None => true,
                };
                let attempt = entry.map_or(0, |entry| entry.attempt) + 1;
                let message = self.stream.message(sequence)?;
                if let Some(key) = message.key() {
                    if !is_free {
                        busy.insert(key.clone());
                    } else if busy.contains(key) {
                        continue;
                    }
                }
                if is_free {
                    let progress = Progress::Claimed(member.id.clone());
                    state.entries.insert(sequence, Entry { attempt, progress });
                    let token = AckToken::new(0, attempt, sequence);
                    claimed.push(Delivery::new(message, token).attempt(attempt));
                }
            }
            Ok(claimed)
        })
    }

    /// Settles what is this member's, and returns what is not.
    pub(crate) fn settle(
        &self,
        member: &Member,
        settlements: &[Settlement],
    ) -> Result<Vec<TokenId>> {
        self.change("settle", |state| {
            let mut lost = Vec::new();
            for Settlement { token, action } in settlements {
                let id = token.id();
                let ours = |entry: &&mut Entry| {
                    entry.attempt == id.epoch
                        && matches!(&entry.progress, Progress::Claimed(holder) if *holder == member.id)
                };
                let Some(entry) = state.entries.get_mut(&id.sequence).filter(ours) else {
                    lost.push(id);
                    continue;
                };
                match action {
                    SettleAction::Ack => entry.progress = Progress::Done,
                    SettleAction::Retry { after } => {
                        entry.progress = Progress::Waiting(now().saturating_add(millis(*after)));
                    }
                    SettleAction::Release => {
                        entry.progress = Progress::Waiting(0);
                        entry.attempt -= 1;
                    }
                }
            }
            Ok(lost)
        })
    }

    /// Gives back all that a member has, and forgets it.
    pub(crate) fn leave(&self, member: &Member) -> Result<()> {
        self.change("close", |state| {
            for entry in state.entries.values_mut() {
                if matches!(&entry.progress, Progress::Claimed(holder) if *holder == member.id) {
                    entry.progress = Progress::Waiting(0);
                }
            }
            Ok(())
        })?;
        let path = self.member_path(&member.id);
        fs::remove_file(&path).map_err(|error| file_error("close", &path, error))
    }
}

fn millis(delay: Option<Duration>) -> i64 {
    i64::try_from(delay.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
