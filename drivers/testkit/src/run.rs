//! Runs the cases.

use std::sync::Arc;

use streams_core::{Capabilities, Driver};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::cases::Case;
use crate::failure::Failure;
use crate::kit::Kit;
use crate::{CaseReport, Harness, Report, RunOptions, Verdict, cases};

/// Runs the whole kit as the environment says, prints the report, and returns it.
///
/// # Panics
/// If the driver cannot even be opened.
pub async fn run(harness: impl Harness) -> Report {
    run_with(harness, RunOptions::from_env()).await
}

/// Runs the kit with these options.
///
/// # Panics
/// If the driver cannot even be opened.
pub async fn run_with(harness: impl Harness, options: RunOptions) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    let started = Instant::now();
    let capabilities = capabilities(&*harness).await;
    let driver = harness
        .name()
        .unwrap_or_else(|| capabilities.driver.to_owned());
    let run = Arc::new(Run {
        harness,
        capabilities: capabilities.clone(),
        options,
    });
    let mut reports: Vec<Option<CaseReport>> = Vec::new();
    reports.resize_with(cases().len(), || None);

    let permits = Arc::new(Semaphore::new(run.options.parallel));
    let mut running = JoinSet::new();
    let (alone, together): (Vec<_>, Vec<_>) = cases()
        .iter()
        .enumerate()
        .filter(|(_, case)| run.options.takes(case.name))
        .partition(|(_, case)| case.alone);
    for (at, case) in together {
        let (run, permits) = (run.clone(), permits.clone());
        running.spawn(async move {
            let permit = permits.acquire_owned().await;
            let report = run.case(case).await;
            drop(permit);
            (at, report)
        });
    }
    while let Some(done) = running.join_next().await {
        match done {
            Ok((at, report)) => reports[at] = Some(report),
            Err(error) => panic!("the kit itself failed: {error}"),
        }
    }
    for (at, case) in alone {
        reports[at] = Some(run.case(case).await);
    }

    let report = Report {
        driver,
        capabilities,
        cases: reports.into_iter().flatten().collect(),
        took: started.elapsed(),
    };
    if run.options.print {
        println!("{report}");
    }
    report
}

/// Runs one case on a runtime of its own: what a test made by [`conformance!`](crate::conformance)
/// does. Prints why if it does not apply.
///
/// # Panics
/// If the case fails, or if there is none of that name.
pub fn run_case(harness: impl Harness, name: &str) {
    let Some(case) = cases().iter().find(|case| case.name == name) else {
        let names: Vec<_> = cases().iter().map(|case| case.name).collect();
        panic!("the kit has no case `{name}`; it has {}", names.join(", "));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => panic!("cannot start a runtime for the case: {error}"),
    };
    let verdict = runtime.block_on(async {
        let harness: Arc<dyn Harness> = Arc::new(harness);
        let capabilities = capabilities(&*harness).await;
        let run = Run {
            harness,
            capabilities,
            options: RunOptions::from_env(),
        };
        run.case(case).await.verdict
    });
    match verdict {
        Verdict::Passed => {}
        Verdict::Failed(reason) => panic!("{name}: {reason}"),
        Verdict::NotApplicable(missing) => println!("{name} is not applicable: it needs {missing}"),
    }
}

/// What the reader can do, and the writer, which may be of another backend.
async fn capabilities(harness: &dyn Harness) -> Capabilities {
    let driver = match harness.open().await {
        Ok(driver) => driver,
        Err(error) => panic!("the harness cannot open its driver: {error:?}"),
    };
    let (reader, writer) = (driver.reader(), driver.writer());
    let (reader, writer) = (reader.capabilities(), writer.capabilities());
    reader
        .clone()
        .delay(writer.delay)
        .cancel_delayed(writer.cancel_delayed)
        .list_delayed(writer.list_delayed)
        .transactions(writer.transactions)
        .creates_streams(writer.creates_streams)
        .largest_message(writer.largest_message)
        .most_headers(writer.most_headers)
        .binary_headers(writer.binary_headers)
}

struct Run {
    harness: Arc<dyn Harness>,
    capabilities: Capabilities,
    options: RunOptions,
}

impl Run {
    async fn case(&self, case: &'static Case) -> CaseReport {
        let started = Instant::now();
        let missing: Vec<_> = case
            .needs
            .iter()
            .filter(|need| !need.is_met(&self.capabilities, &*self.harness))
            .map(ToString::to_string)
            .collect();
        let verdict = if missing.is_empty() {
            self.verdict(case).await
        } else {
            Verdict::NotApplicable(missing.join(", "))
        };
        CaseReport {
            case: case.name,
            verdict,
            took: started.elapsed(),
        }
    }

    async fn verdict(&self, case: &'static Case) -> Verdict {
        let kit = Arc::new(Kit::new(
            self.harness.clone(),
            self.capabilities.clone(),
            case.name,
            self.options.scale,
        ));
        let limit = self.options.timeout * case.patience;
        let mut task = tokio::spawn((case.run)(kit.clone()));
        let verdict = match timeout(limit, &mut task).await {
            Ok(Ok(Ok(()))) => Verdict::Passed,
            Ok(Ok(Err(failure))) => Verdict::Failed(failure.to_string()),
            Ok(Err(join)) => Verdict::Failed(Failure::from(join).to_string()),
            Err(_) => {
                task.abort();
                Verdict::Failed(format!("not over after {limit:?}: it hangs"))
            }
        };
        kit.clean().await;
        verdict
    }
}
