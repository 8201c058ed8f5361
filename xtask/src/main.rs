//! Build chores: `cargo xtask <command>`.

mod bench;
mod ci;
mod dependencies;
mod docs;
mod run;
mod services;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt;

const HELP: &str = "\
cargo xtask <command>

  test [--quick] [--only NAME]
      Runs every test, doctest and example, with the servers they need. --quick leaves out the crates
      that need a server, and runs smaller counts of what is random or large; --only runs one crate:
      `core`, `kafka`, `streams-middleware`.
  services up [NAME...] | status | down
      Starts servers in the background, installs them if they are missing, and prints the variables
      that tell tests their addresses: `eval \"$(cargo xtask services up)\"`. Without a name, those that
      the tests use; `all` is all of them. See services/README.md.
  ci
      What a change must pass: format, clippy, docs, dependencies, toolchain, tidiness, generated
      docs, tests, and the counts of the benchmarks.
  tidy
      The checks of `ci` that need no build: dependencies, toolchain, tidiness.
  docs [--check]
      Builds the documentation and writes the generated parts of Markdown files. --check writes
      nothing and fails when one is out of date.
  bench [core|amazon|dynamodb|kafka|redis|sql|peers] [--json FILE] [--check] [--only NAME]
      Measures: `core` (the default) against targets; `amazon`, `dynamodb`, `kafka`, `redis` and `sql` against
      what the raw client does and targets, on a server that it starts; `peers` beside other libraries.
      --check fails when a figure falls short, --only measures the figures whose name contains NAME.
";

/// The result of a chore; an error is printed as it is.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Result {
    let mut arguments = lexopt::Parser::from_env();
    let mut options = Options::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => options.quick = true,
            Long("check") => options.check = true,
            Long("only") => options.only = Some(arguments.value()?.string()?),
            Long("json") => options.json = Some(arguments.value()?.into()),
            Long("help") | Short('h') => options.words.insert(0, "help".to_owned()),
            Value(word) => options.words.push(word.string()?),
            other @ (Long(_) | Short(_)) => return Err(other.unexpected().into()),
        }
    }
    let words: Vec<_> = options.words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["help", ..] => {
            print!("{HELP}");
            Ok(())
        }
        ["test"] => test::command(&options).map(drop),
        ["ci"] => ci::command(),
        ["tidy"] => ci::tidy(),
        ["services", "up", ref names @ ..] => services::up(names),
        ["services", "status"] => services::status(),
        ["services", "down"] => services::down(),
        ["services", services::SUPERVISE, ref names @ ..] => services::supervise(names),
        ["docs"] => docs::command(options.check),
        ["bench"] | ["bench", "core"] => bench::core(&options),
        ["bench", "kafka"] => bench::kafka(&options),
        ["bench", "amazon"] => bench::amazon(&options),
        ["bench", "dynamodb"] => bench::dynamodb(&options),
        ["bench", "redis"] => bench::redis(&options),
        ["bench", "sql"] => bench::sql(&options),
        ["bench", "peers"] => bench::peers(&options),
        _ => Err(format!("unknown command `{}`\n\n{HELP}", words.join(" ")).into()),
    }
}

/// What was asked for; each command reads what concerns it.
#[derive(Default)]
struct Options {
    words: Vec<String>,
    quick: bool,
    check: bool,
    only: Option<String>,
    json: Option<std::path::PathBuf>,
}
