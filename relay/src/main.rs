//! The program `streams-relay`. See the README, or `streams-relay --help`.

use std::env;
use std::io::Write as _;
use std::process::ExitCode;

use streams_relay::{Command, Ended};

fn main() -> ExitCode {
    let config = match Command::read(env::args_os().skip(1), env::vars_os()) {
        Ok(Command::Run(config)) => config,
        Ok(Command::Print(text)) => {
            // Whoever reads only the first lines has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Ended::Well.into();
        }
        Err(error) => {
            streams_relay::say(&error);
            return Ended::Misconfigured.into();
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return Ended::Failed.into();
        }
    };
    let ended = runtime.block_on(streams_relay::run(*config));
    // A write that hangs keeps nobody waiting.
    runtime.shutdown_background();
    ended.into()
}
