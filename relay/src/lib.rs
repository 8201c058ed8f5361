#![doc = include_str!("../README.md")]

mod config;
mod destination;
mod http;
mod logs;
mod program;
mod settings;
mod signals;
mod source;
mod status;
mod stdout;

pub use config::{Command, Config};
pub use program::{Ended, run, say};
