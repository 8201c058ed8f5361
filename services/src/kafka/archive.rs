//! Kafka's classes, loaded once and kept as the JVM wants them: a broker starts in half the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::KafkaBuilder;
use crate::install::{kept, program};
use crate::{Error, Result};

const FILE: &str = "classes.jsa";

/// What a JVM does about the archive.
#[derive(Debug, Clone)]
pub(super) enum Archive {
    /// Takes classes from it.
    Read(PathBuf),
    /// Writes it when it ends.
    Write(PathBuf),
    /// This kind of JVM has none.
    Unknown,
}

impl Archive {
    /// Made now if it is missing, by a broker that starts and ends.
    pub(super) fn of(jars: &Path) -> Result<Self> {
        let recipe = format!("{jars:?} {:?}", java()?);
        let folder = kept("kafka-classes", &recipe, |folder| {
            let kafka = KafkaBuilder::default().launch(jars, &Self::Write(folder.join(FILE)))?;
            match kafka.stop() {
                true => Ok(()),
                false => Err(Error::new(
                    "a Kafka broker did not end when it was asked to",
                )),
            }
        })?;
        let file = folder.join(FILE);
        Ok(if file.exists() {
            Self::Read(file)
        } else {
            Self::Unknown
        })
    }

    /// For a broker.
    pub(super) fn option(&self) -> Option<String> {
        match self {
            Self::Write(file) => Some(format!("-XX:ArchiveClassesAtExit={}", file.display())),
            _ => self.option_to_read(),
        }
    }

    /// For a tool, which loads too little to write an archive of.
    pub(super) fn option_to_read(&self) -> Option<String> {
        match self {
            Self::Read(file) => Some(format!("-XX:SharedArchiveFile={}", file.display())),
            Self::Write(_) | Self::Unknown => None,
        }
    }
}

/// What tells one JVM from another, as the archive is of use to one alone.
fn java() -> Result<(PathBuf, SystemTime)> {
    let java = program("java").ok_or_else(|| Error::new("no `java` on the PATH"))?;
    let java = fs::canonicalize(java).map_err(Error::doing("java"))?;
    let built = fs::metadata(&java).and_then(|file| file.modified());
    let built = built.map_err(Error::doing(java.display()))?;
    Ok((java, built))
}
