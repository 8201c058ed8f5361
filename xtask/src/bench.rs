//! `cargo xtask bench`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use streams_services::Service;

use crate::run::{cargo, run};
use crate::workspace::root;
use crate::{Options, Result, services};

/// Programs of `streams-bench`. Those that count run with an allocator that counts, so that times
/// are measured without it.
const CORE: [&str; 2] = ["times", "counts"];

/// Measures this workspace against its targets.
pub(crate) fn core(options: &Options) -> Result {
    // All of them: one runs another.
    run(&mut cargo([
        "build",
        "--profile=bench",
        "--package=streams-bench",
        "--bins",
    ]))?;
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for binary in CORE {
        let mut bench = cargo([
            "run",
            "--profile=bench",
            "--package=streams-bench",
            "--bin",
            binary,
            "--",
        ]);
        choose(&mut bench, options);
        let part = options
            .json
            .as_ref()
            .map(|json| json.with_extension(format!("{binary}.tmp")));
        if let Some(part) = &part {
            bench.arg("--json").arg(std::path::absolute(part)?);
        }
        if let Err(error) = run(&mut bench) {
            failed.push(error.to_string());
        }
        if let Some(part) = part.filter(|part| part.exists()) {
            figures.extend(take_figures(&part)?);
        }
    }
    if let Some(json) = &options.json {
        fs::write(json, serde_json::to_string_pretty(&Value::Array(figures))?)?;
    }
    match &failed[..] {
        [] => Ok(()),
        failed => Err(failed.join("\n").into()),
    }
}

/// Measures the Kafka driver against the raw client, on a broker of its own or on the user's.
pub(crate) fn kafka(options: &Options) -> Result {
    streams_services::install_build_tools()?;
    against(Service::Kafka, "--package=streams-bench-kafka", options)
}

/// Measures the SQL outbox, relay and queue against the database's own statements.
pub(crate) fn sql(options: &Options) -> Result {
    against(Service::Postgres, "--package=streams-bench-sql", options)
}

/// Counts the requests of the SQS driver, and measures it against the raw client.
pub(crate) fn amazon(options: &Options) -> Result {
    against(
        Service::ElasticMq,
        "--package=streams-bench-amazon",
        options,
    )
}

/// Measures the DynamoDB outbox, relay and inbox against the raw client.
pub(crate) fn dynamodb(options: &Options) -> Result {
    against(
        Service::DynamoDb,
        "--package=streams-bench-dynamodb",
        options,
    )
}

/// Measures the Redis driver against the client's own commands.
pub(crate) fn redis(options: &Options) -> Result {
    against(Service::Redis, "--package=streams-bench-redis", options)
}

/// Runs a benchmark on a server of its own, or on the user's.
fn against(service: Service, package: &str, options: &Options) -> Result {
    // Built before, so that the server does not wait for the compiler.
    run(&mut cargo(["build", "--release", package]))?;
    let servers = services::start(&[service])?;
    let mut bench = cargo(["run", "--release", package, "--"]);
    for server in &servers {
        for variable in server.service().unset() {
            bench.env(variable, server.address());
        }
    }
    choose(&mut bench, options);
    write_json(&mut bench, options)?;
    run(&mut bench)
}

/// Measures this workspace beside other libraries, in a workspace of their own.
pub(crate) fn peers(options: &Options) -> Result {
    let mut bench = cargo(["run", "--release", "--"]);
    bench.current_dir(root().join("bench/peers"));
    if let Some(only) = &options.only {
        bench.args(["--only", only]);
    }
    write_json(&mut bench, options)?;
    run(&mut bench)
}

/// Which figures, and whether they are checked.
fn choose(bench: &mut Command, options: &Options) {
    if options.check {
        bench.arg("--check");
    }
    if let Some(only) = &options.only {
        bench.args(["--only", only]);
    }
}

fn write_json(bench: &mut Command, options: &Options) -> Result {
    if let Some(json) = &options.json {
        bench.arg("--json").arg(std::path::absolute(json)?);
    }
    Ok(())
}

fn take_figures(part: &Path) -> Result<Vec<Value>> {
    let figures = serde_json::from_str(&fs::read_to_string(part)?)?;
    fs::remove_file(part)?;
    match figures {
        Value::Array(figures) => Ok(figures),
        _ => Err("the benchmark's JSON is not a list".into()),
    }
}
