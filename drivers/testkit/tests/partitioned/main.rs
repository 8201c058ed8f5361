//! The conformance kit on a driver of partitions and positions: it passes, and what is broken about
//! partitions is found.

mod driver;

use std::time::Duration;

use driver::{Fault, JOIN, PARTITIONS, Partitioned, STANDSTILL};
use streams_core::{AnyDriver, Result, async_trait};
use streams_testkit::{Harness, Profile, Report, RunOptions, Scale, run, run_with};

#[derive(Default)]
struct InMemory(Partitioned);

#[async_trait]
impl Harness for InMemory {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.0))
    }

    fn profile(&self) -> Profile {
        // Nothing comes before a member has joined, or while its group stands still.
        let quiet = JOIN + STANDSTILL + Duration::from_millis(50);
        Profile::default().members(PARTITIONS).quiet(quiet)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_positions() {
    run(InMemory::default()).await.assert_passed();
}

async fn run_broken(fault: Fault) -> Report {
    let harness = InMemory(Partitioned::broken(fault));
    let options = RunOptions::new().scale(Scale::Quick).print(false);
    run_with(harness, options).await
}

macro_rules! broken {
    ($($name:ident: $fault:ident $($case:ident)*;)+) => {$(
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let report = run_broken(Fault::$fault).await;
            let failed: Vec<_> = report.failed().collect();
            let expected: &[&str] = &[$(stringify!($case)),*];
            assert_eq!(failed, expected, "{report}");
        }
    )+};
}

broken! {
    nothing_fails_on_virtual_time: None;
    assigns_silently: AssignsSilently assignments;
    takes_silently: TakesSilently assignments;
    delivers_revoked: DeliversRevoked assignments;
    repeats_epochs: RepeatsEpochs assignments;
    settles_stale: SettlesStale assignments exactly_once_crash;
    favours_one: FavoursOne concurrent_subscribe assignments;
}
