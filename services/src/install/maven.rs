//! Servers in Java, from Maven Central.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{debian, kept, run};
use crate::{Error, Result};

/// The oldest Java that all of them run on.
const JAVA: u32 = 17;

const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A server's programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jars {
    pub(crate) name: &'static str,
    /// `group:name:version` of packages. All they need comes with them.
    pub(crate) artifacts: &'static [&'static str],
    /// `group:name:version` of lists of versions, which decide over those that the packages ask for.
    pub(crate) versions: &'static [&'static str],
    /// A class of our own on top: its name and text.
    pub(crate) source: Option<(&'static str, &'static str)>,
}

impl Jars {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            artifacts: &[],
            versions: &[],
            source: None,
        }
    }

    /// The folder they are in, after a download if that is the first time.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        debian::require("java", "default-jre-headless")?;
        let pom = self.pom();
        let recipe = format!("{pom}{:?}", self.source);
        kept(self.name, &recipe, |folder| {
            debian::require("mvn", "maven")?;
            check_java()?;
            download(&pom, folder)?;
            match self.source {
                Some((name, text)) => compile(name, text, folder),
                None => Ok(()),
            }
        })
    }

    fn pom(&self) -> String {
        format!(
            "<project>\n<modelVersion>4.0.0</modelVersion>\n<groupId>streams</groupId>\n\
             <artifactId>{}</artifactId>\n<version>1</version>\n\
             <dependencyManagement><dependencies>\n{}</dependencies></dependencyManagement>\n\
             <dependencies>\n{}</dependencies>\n</project>\n",
            self.name,
            dependencies(self.versions, "<type>pom</type><scope>import</scope>"),
            dependencies(self.artifacts, "")
        )
    }
}

fn dependencies(artifacts: &[&str], more: &str) -> String {
    let dependency = |artifact: &&str| {
        let mut parts = artifact.split(':');
        let mut element = |name: &str| {
            let part = parts.next().unwrap_or_default();
            format!("<{name}>{part}</{name}>")
        };
        let (group, name) = (element("groupId"), element("artifactId"));
        let version = element("version");
        format!("<dependency>{group}{name}{version}{more}</dependency>\n")
    };
    artifacts.iter().map(dependency).collect()
}

/// Java with what is in a folder of [`Jars`], with a heap of so many mebibytes. It writes nothing
/// outside of `place`.
pub(crate) fn java(jars: &Path, mebibytes: u32, place: &Path) -> Command {
    let mut java = Command::new("java");
    java.current_dir(place)
        .arg(format!("-Xmx{mebibytes}m"))
        .arg("-XX:+ExitOnOutOfMemoryError")
        .arg("-XX:-UsePerfData")
        .arg(format!("-Djava.io.tmpdir={}", place.display()))
        .arg("-XX:+IgnoreUnrecognizedVMOptions")
        .arg("-cp")
        .arg(jars.join("*"));
    java
}

fn download(pom: &str, folder: &Path) -> Result {
    let file = folder.join("pom.xml");
    fs::write(&file, pom).map_err(Error::doing(file.display()))?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--batch-mode", "--no-transfer-progress", "--quiet", COPY])
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .arg("--file")
        .arg(&file);
    run(&mut maven).map(drop)
}

/// Adds a jar with one class.
fn compile(class: &str, text: &str, folder: &Path) -> Result {
    debian::require("javac", "default-jdk-headless")?;
    let file = folder.join(format!("{class}.java"));
    fs::write(&file, text).map_err(Error::doing(file.display()))?;
    let mut javac = Command::new("javac");
    javac.arg("-cp").arg(folder.join("*"));
    run(javac.arg("-d").arg(folder).arg(file))?;
    let mut jar = Command::new("jar");
    jar.current_dir(folder)
        .args(["--create", "--file", "own.jar", &format!("{class}.class")]);
    run(&mut jar).map(drop)
}

fn check_java() -> Result {
    let version = run(Command::new("java").arg("--version"))?;
    match major(&version) {
        Some(major) if major >= JAVA => Ok(()),
        _ => Err(Error::new(format!(
            "Java {JAVA} or newer is needed; `java` on the PATH is {}",
            version.lines().next().unwrap_or("of an unknown version")
        ))),
    }
}

/// 17 of `openjdk 17.0.15 2025-04-15`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(1)?;
    number.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read() {
        assert_eq!(major("openjdk 17.0.15 2025-04-15\nx"), Some(17));
        assert_eq!(major("java 21-ea 2023"), Some(21));
        assert_eq!(major(""), None);
    }

    #[test]
    fn artifacts_become_dependencies() {
        let pom = Jars {
            artifacts: &["a.b:c:1.2"],
            versions: &["d:e:3"],
            ..Jars::new("x")
        }
        .pom();
        let artifact = "<dependencies>\n<dependency><groupId>a.b</groupId>\
                        <artifactId>c</artifactId><version>1.2</version></dependency>\n";
        assert!(pom.contains(artifact), "{pom}");
        let version = "<dependencyManagement><dependencies>\n<dependency><groupId>d</groupId>\
                       <artifactId>e</artifactId><version>3</version><type>pom</type>";
        assert!(pom.contains(version), "{pom}");
    }
}
