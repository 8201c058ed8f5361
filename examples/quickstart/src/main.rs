//! The first program: publish events, handle them in two consumer groups, all in memory.
//!
//! ```text
//! cargo run -p quickstart
//! cargo run -p quickstart -- --input FILE
//! ```
//!
//! `demo.rs` is the whole of the first command, and the place to start reading. `input.rs` is the
//! second: each line of a file becomes an event, with backpressure, so that the file may be larger
//! than memory.

mod demo;
mod input;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

const HELP: &str = "\
Publishes events and handles them in two consumer groups, in memory.

usage: quickstart [--input FILE]

  --input FILE   publishes each line of FILE, which is JSON, as an event; - reads standard input
  -h, --help     prints this

Lines that are not JSON, empty, or longer than 256 KiB are reported with their number and reason; the
run goes on.

exit code: 0  every line was handled
           1  some lines were rejected; all others were handled
           2  wrong arguments, or the input cannot be read
";

enum Command {
    Demo,
    Input(OsString),
    Help,
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?;
    match command {
        Command::Help => print!("{HELP}"),
        Command::Demo => runtime.block_on(demo::run())?,
        Command::Input(file) => return input::run(&runtime, &file),
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::Demo;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--input") => match arguments.next() {
                Some(file) => command = Command::Input(file),
                None => return Err("--input needs a file, or - for standard input".into()),
            },
            Some("-h" | "--help") => return Ok(Command::Help),
            _ => {
                return Err(format!(
                    "unknown argument `{}`; the flags are --input FILE and --help",
                    argument.display()
                )
                .into());
            }
        }
    }
    Ok(command)
}
