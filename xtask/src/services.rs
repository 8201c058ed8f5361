//! `cargo xtask services`.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, io, thread};

use serde_json::{Value, json};
use streams_services::{Running, Service};

use crate::Result;
use crate::run::{cannot_start, run};
use crate::workspace::{self, Member};

/// The command of the process that owns the servers. For [`up`] alone.
pub(crate) const SUPERVISE: &str = "supervise";

/// What the supervisor says when all its servers answer.
const READY: &str = "ready";

/// The end of the name of a supervisor's file; before it stands its process id.
const STATE: &str = "json";

/// The servers that some crates' tests need, each once.
pub(crate) fn of<'a>(members: impl IntoIterator<Item = &'a Member>) -> Result<Vec<Service>> {
    let mut services = Vec::new();
    for member in members {
        for name in member.services.iter().flatten() {
            let service = Service::named(name)
                .map_err(|error| format!("{}/Cargo.toml: {error}", member.folder))?;
            if !services.contains(&service) {
                services.push(service);
            }
        }
    }
    Ok(services)
}

/// Starts them, all at once, but for those that the user has. They end when they are dropped.
pub(crate) fn start(services: &[Service]) -> Result<Vec<Running>> {
    let missing = services
        .iter()
        .filter(|service| !service.unset().is_empty());
    let started: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = missing
            .map(|service| scope.spawn(|| service.start()))
            .collect();
        starts
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut running = Vec::new();
    for server in started {
        running.push(server.map_err(|_| "a panic while a server was started")??);
    }
    Ok(running)
}

/// Starts servers in the background and prints how to tell programs of them.
pub(crate) fn up(names: &[&str]) -> Result {
    let wanted = match names {
        [] => of(&workspace::members()?)?,
        ["all"] => Service::ALL.to_vec(),
        names => names
            .iter()
            .map(|name| Service::named(name))
            .collect::<streams_services::Result<_>>()?,
    };
    let before = supervisors()?;
    let mut missing = Vec::new();
    for service in &wanted {
        if find(&before, *service).is_some() {
            eprintln!("{} already runs", service.name());
        } else if service.unset().is_empty() {
            let variables = service.variables().join(" and ");
            eprintln!("{}: yours is used, as {variables} says", service.name());
        } else {
            missing.push(service.name());
        }
    }
    if !missing.is_empty() {
        start_supervisor(&missing)?;
    }
    let now = supervisors()?;
    for service in wanted {
        if let Some(server) = find(&now, service) {
            for variable in service.variables() {
                println!("export {variable}={}", server.address);
            }
        }
    }
    Ok(())
}

/// Lists what runs.
pub(crate) fn status() -> Result {
    let supervisors = supervisors()?;
    if supervisors.is_empty() {
        println!("no servers run; `cargo xtask services up` starts them");
    }
    for server in supervisors.iter().flat_map(|one| &one.servers) {
        let answers = |socket: &SocketAddr| TcpStream::connect(socket).is_ok();
        let state = match server.sockets.iter().all(answers) {
            true => "up",
            false => "down",
        };
        let pids: Vec<_> = server.pids.iter().map(u64::to_string).collect();
        println!(
            "{:<10} {state:<5} {:<8} {}",
            server.name,
            pids.join(","),
            server.address
        );
    }
    Ok(())
}

/// Ends what [`up`] started. Data goes with it.
pub(crate) fn down() -> Result {
    for supervisor in supervisors()? {
        // Its servers die with it.
        run(Command::new("kill").arg(supervisor.pid.to_string()))?;
        supervisor.file.lock()?;
        fs::remove_file(&supervisor.path)?;
        for server in supervisor.servers {
            eprintln!("{} stopped", server.name);
        }
    }
    Ok(())
}

/// Owns servers until it is killed.
pub(crate) fn supervise(names: &[&str]) -> Result {
    let services: Vec<_> = names
        .iter()
        .map(|name| Service::named(name))
        .collect::<streams_services::Result<_>>()?;
    let path = folder()?.join(format!("{}.{STATE}", std::process::id()));
    let draft = path.with_extension("draft");
    let mut state = File::create(&draft)?;
    // As long as it is locked, this process lives, and the id in the file's name is its.
    state.lock()?;
    fs::rename(draft, path)?;
    let running = start(&services)?;
    let servers: Vec<_> = running
        .iter()
        .map(|server| {
            json!({
                "name": server.service().name(),
                "address": server.address(),
                "pids": server.pids(),
                "sockets": server.sockets().iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    state.write_all(Value::Array(servers).to_string().as_bytes())?;
    eprintln!("{READY}");
    loop {
        thread::park();
    }
}

fn start_supervisor(names: &[&str]) -> Result {
    let mut supervisor = Command::new(env::current_exe()?);
    supervisor
        .args(["services", SUPERVISE])
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C is for what runs in the foreground.
        .process_group(0);
    let mut child = supervisor
        .spawn()
        .map_err(|error| cannot_start(&supervisor, &error))?;
    let stderr = child.stderr.take().ok_or("no pipe")?;
    for line in BufReader::new(stderr).lines() {
        match &*line? {
            READY => return Ok(()),
            line => eprintln!("{line}"),
        }
    }
    Err(format!("the servers did not start: {}", child.wait()?).into())
}

/// A process that owns servers.
struct Supervisor {
    pid: u32,
    path: PathBuf,
    /// Locked by that process.
    file: File,
    servers: Vec<Server>,
}

struct Server {
    name: String,
    address: String,
    pids: Vec<u64>,
    sockets: Vec<SocketAddr>,
}

/// Those that live. What others left behind is removed.
fn supervisors() -> Result<Vec<Supervisor>> {
    let mut supervisors = Vec::new();
    for entry in fs::read_dir(folder()?)? {
        let path = entry?.path();
        let pid = path
            .file_stem()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(pid) = pid else { continue };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        match file.try_lock() {
            Ok(()) => fs::remove_file(&path)?,
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) => {
                let servers = parse(&fs::read_to_string(&path)?);
                supervisors.push(Supervisor {
                    pid,
                    path,
                    file,
                    servers,
                });
            }
        }
    }
    Ok(supervisors)
}

/// What a supervisor wrote; nothing, while its servers start.
fn parse(state: &str) -> Vec<Server> {
    let state: Value = serde_json::from_str(state).unwrap_or_default();
    let servers = state.as_array().into_iter().flatten();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    servers
        .filter_map(|server| {
            let sockets = list(&server["sockets"]);
            Some(Server {
                name: server["name"].as_str()?.to_owned(),
                address: server["address"].as_str()?.to_owned(),
                pids: list(&server["pids"])
                    .iter()
                    .filter_map(Value::as_u64)
                    .collect(),
                sockets: sockets
                    .iter()
                    .filter_map(|socket| socket.as_str()?.parse().ok())
                    .collect(),
            })
        })
        .collect()
}

fn find(supervisors: &[Supervisor], service: Service) -> Option<&Server> {
    supervisors
        .iter()
        .flat_map(|supervisor| &supervisor.servers)
        .find(|server| server.name == service.name())
}

/// One file for each supervisor.
fn folder() -> Result<PathBuf> {
    let folder = workspace::target().join("services");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
