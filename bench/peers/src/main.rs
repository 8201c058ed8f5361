//! The same work through Streams and through other libraries: one publisher, messages of 256 bytes
//! one by one, one subscriber that does nothing and acknowledges. Each with its own defaults, in its
//! in-process form.
//!
//! Every run is a process of its own, and they take turns, so that what slows the machine slows all.
//!
//! What the figures do not show: sea-streamer and omniqueue give a message neither an id nor
//! headers; sea-streamer's in-process form also prints each message (to nowhere, here), confirms
//! no write that is not waited for, and acknowledges nothing; omniqueue's queue has no bound.

mod omniqueue;
mod ruststream;
mod sea_streamer;
mod streams;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use lexopt::prelude::*;
use serde_json::json;

/// Bytes of data in a message.
const SIZE: usize = 256;

/// Turns that each one gets.
const TURNS: usize = 7;

/// Messages of a run.
const MESSAGES: usize = 200_000;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs one of them, and says how long it took from the first publish to the last message handled.
fn run(name: &str, messages: usize) -> Result<Duration, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match name {
        "streams" => runtime.block_on(streams::run(messages, 1)),
        "streams, batches of 64" => runtime.block_on(streams::run(messages, 64)),
        "omniqueue" => runtime.block_on(omniqueue::run(messages)),
        "ruststream" => runtime.block_on(ruststream::run(messages)),
        "sea-streamer" => runtime.block_on(sea_streamer::run(messages)),
        other => Err(format!(
            "nothing to run called `{other}`; there are {}",
            ALL.join("; ")
        )
        .into()),
    }
}

/// All there are, ours first: the others are compared with it.
const ALL: [&str; 5] = [
    "streams",
    "streams, batches of 64",
    "omniqueue",
    "ruststream",
    "sea-streamer",
];

fn main() -> Result<(), Error> {
    let mut only = None;
    let mut json = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("only") => only = Some(arguments.value()?.string()?),
            Long("json") => json = Some(PathBuf::from(arguments.value()?)),
            Long("run") => {
                let took = run(&arguments.value()?.string()?, MESSAGES)?;
                eprintln!("{}", took.as_secs_f64());
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let wanted = |name: &&str| {
        only.as_ref()
            .is_none_or(|only| *name == ALL[0] || name.contains(&**only))
    };
    let names: Vec<_> = ALL.into_iter().filter(wanted).collect();
    let mut rates = vec![Vec::new(); names.len()];
    for turn in 0..=TURNS {
        for (name, rates) in names.iter().zip(&mut rates) {
            let rate = MESSAGES as f64 / run_in_process(name)?;
            // The first turn warms up.
            if turn > 0 {
                rates.push(rate);
            }
        }
    }
    let medians: Vec<_> = rates.into_iter().map(median).collect();
    let mut figures = Vec::new();
    for (name, rate) in names.iter().zip(&medians) {
        let ratio = medians[0] / rate;
        println!("{name:<24} {rate:>12.0} messages/s   ours is {ratio:>6.2} x");
        figures.push(json!({"name": name, "messages_per_second": rate, "ours_by_it": ratio}));
    }
    if let Some(path) = json {
        std::fs::write(path, format!("{:#}\n", serde_json::Value::Array(figures)))?;
    }
    Ok(())
}

/// The seconds that a run in a process of its own took.
fn run_in_process(name: &str) -> Result<f64, Error> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--run", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let seconds = text.lines().last().and_then(|line| line.parse().ok());
    match seconds {
        Some(seconds) if output.status.success() => Ok(seconds),
        _ => Err(format!("{name} failed ({}):\n{text}", output.status).into()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
