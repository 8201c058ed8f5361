//! Where a server runs: a folder and ports of its own.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::{Error, Result};

/// Ports are above those of well-known servers, and below those the kernel gives out.
const LOWEST_PORT: u16 = 10_000;

/// A folder and ports, both given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    ports: Vec<Port>,
}

impl Place {
    pub(crate) fn new(name: &str, ports: usize) -> Result<Self> {
        let home = home()?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(home)
            .map_err(Error::doing(home.display()))?;
        open_to_all(folder.path())?;
        let ports = (0..ports).map(|_| Port::reserve()).collect::<Result<_>>()?;
        Ok(Self { folder, ports })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of a file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Writes a file in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.file(name);
        fs::write(&file, text).map_err(Error::doing(file.display()))?;
        Ok(file)
    }

    /// The output of the server.
    pub(crate) fn log(&self) -> PathBuf {
        self.file("log")
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.ports[index].number
    }

    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(index)))
    }

    /// A port that something listens on.
    pub(crate) fn taken_port(&self) -> Option<u16> {
        let mut ports = self.ports.iter().map(|port| port.number);
        ports.find(|port| !is_free(*port))
    }
}

/// A port that no other server gets, running or not: one that is down for a moment finds its port free
/// when it is started again.
#[derive(Debug)]
struct Port {
    number: u16,
    /// Servers listen on TCP. The port of the same number of UDP, which none of them uses, tells other
    /// processes that this one is reserved, for as long as this process lives.
    _reservation: UdpSocket,
}

impl Port {
    fn reserve() -> Result<Self> {
        for _ in 0..10_000 {
            let number = fastrand::u16(LOWEST_PORT..ephemeral());
            if let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number))
                && is_free(number)
            {
                return Ok(Self {
                    number,
                    _reservation: reservation,
                });
            }
        }
        Err(Error::new("no free port on 127.0.0.1"))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The first port that the kernel gives to connections. A server must have none of those: while it is
/// down, a client that keeps trying to connect can get the server's port for its own end, connect to
/// itself, and keep the server from coming back.
fn ephemeral() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > LOWEST_PORT)
        .unwrap_or(32_768)
}

/// The folder for everything of this process.
fn home() -> Result<&'static Path> {
    static HOME: OnceLock<Result<(PathBuf, ChildStdin), String>> = OnceLock::new();
    match HOME.get_or_init(|| make_home().map_err(|error| error.to_string())) {
        Ok((home, _)) => Ok(home),
        Err(error) => Err(Error::new(format!("no folder for servers: {error}"))),
    }
}

/// A folder that is removed when this process has ended, even by kill -9: a shell waits for the end of
/// its standard input, which comes when the process that holds the other end is gone.
fn make_home() -> io::Result<(PathBuf, ChildStdin)> {
    let home = tempfile::Builder::new()
        .prefix("streams-services-")
        .tempdir()?
        .keep();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let mut janitor = Command::new("sh");
    janitor
        // Twice: servers that are dying at this moment may still write.
        .arg("-c")
        .arg("cat; rm -rf -- \"$0\" || { sleep 1; rm -rf -- \"$0\"; }")
        .arg(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Not to be ended by Ctrl-C, which the terminal sends to the whole process group.
    std::os::unix::process::CommandExt::process_group(&mut janitor, 0);
    let stdin = janitor.spawn()?.stdin.take();
    Ok((home, stdin.ok_or_else(|| io::Error::other("no pipe"))?))
}

/// A server may run as a user of its own.
fn open_to_all(folder: &Path) -> Result {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(folder, mode).map_err(Error::doing(folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_reserved_while_its_place_is_there() {
        let place = Place::new("test", 1).unwrap();
        let port = place.port(0);
        assert!((LOWEST_PORT..ephemeral()).contains(&port));
        assert!(is_free(port), "nobody listens yet");
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        assert_eq!(place.taken_port(), None);
        let listener = TcpListener::bind(place.address(0)).unwrap();
        assert_eq!(place.taken_port(), Some(port));
        drop((place, listener));
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn a_folder_goes_with_its_place() {
        let place = Place::new("test", 0).unwrap();
        let file = place.write("file", "text").unwrap();
        assert!(file.exists());
        drop(place);
        assert!(!file.exists());
    }
}
