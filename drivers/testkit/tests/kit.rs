//! The kit's own doings: choosing cases, reporting, timeouts, tables. What the cases find is in
//! `broken`.

use std::time::Duration;

use streams_chanbuf::Chanbuf;
use streams_core::{AnyDriver, Driver, Result, StreamName, async_trait};
use streams_testkit::{
    Harness, Report, RunOptions, Scale, Verdict, cases, cases_table, guarantees_table, run_with,
};

#[derive(Default)]
struct InMemory {
    broker: Chanbuf,
    hangs: bool,
    panics: bool,
}

#[async_trait]
impl Harness for InMemory {
    async fn open(&self) -> Result<AnyDriver> {
        Ok(AnyDriver::from_driver(&self.broker))
    }

    async fn create(&self, _: &StreamName) -> Result<()> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        assert!(!self.panics, "the harness panics");
        Ok(())
    }
}

fn quick() -> RunOptions {
    RunOptions::new().scale(Scale::Quick).print(false)
}

fn verdict<'a>(report: &'a Report, case: &str) -> &'a Verdict {
    &report
        .cases
        .iter()
        .find(|one| one.case == case)
        .unwrap()
        .verdict
}

#[tokio::test(start_paused = true)]
async fn only_the_cases_asked_for_run_in_the_kits_order() {
    let options = quick().only(["publish_", "groups"]);
    let report = run_with(InMemory::default(), options).await;
    let ran: Vec<_> = report.cases.iter().map(|case| case.case).collect();
    assert_eq!(ran, ["publish_subscribe", "publish_one_by_one", "groups"]);
    report.assert_passed();
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no case ran on chanbuf; see `STREAMS_KIT_CASE`")]
async fn a_filter_that_fits_nothing_does_not_pass() {
    run_with(InMemory::default(), quick().only(["no such case"]))
        .await
        .assert_passed();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_apply_names_what_is_missing() {
    let report = run_with(
        InMemory::default(),
        quick().only(["lease_lost", "reconnect"]),
    )
    .await;
    let missing = |text: &str| Verdict::NotApplicable(text.to_owned());
    assert_eq!(
        *verdict(&report, "lease_lost"),
        missing("capability `leases`")
    );
    let server = "a server to restart: `Harness::server`, capability `durable`";
    assert_eq!(*verdict(&report, "reconnect"), missing(server));
    assert!(report.to_string().contains("n/a     lease_lost"));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "groups: not over after 60s: it hangs")]
async fn a_case_that_hangs_fails_by_name() {
    let harness = InMemory {
        hangs: true,
        ..InMemory::default()
    };
    run_with(harness, quick().only(["groups"]))
        .await
        .assert_passed();
}

#[tokio::test(start_paused = true)]
async fn a_case_that_panics_fails_alone() {
    let harness = InMemory {
        panics: true,
        ..InMemory::default()
    };
    let report = run_with(harness, quick().only(["groups", "missing_stream"])).await;
    assert_eq!(report.failed().collect::<Vec<_>>(), ["groups"]);
    assert_eq!(
        *verdict(&report, "groups"),
        Verdict::Failed("panicked: the harness panics".to_owned())
    );
    assert_eq!(*verdict(&report, "missing_stream"), Verdict::Passed);
}

#[tokio::test(start_paused = true)]
async fn tables_have_a_row_for_each_case_and_guarantee() {
    let options = quick()
        .only(["groups", "lease_lost"])
        .timeout(Duration::from_secs(10));
    let report = run_with(InMemory::default(), options).await;
    let table = cases_table(&[&report]);
    assert_eq!(table.lines().count(), 2 + cases().len());
    assert!(table.contains("| `groups` | passed |\n"));
    assert!(table.contains("| `lease_lost` | needs capability `leases` |\n"));
    assert!(table.contains("| `metadata` | not run |\n"));

    let broker = Chanbuf::new();
    let table = guarantees_table(&[broker.reader().capabilities()]);
    assert!(
        table.starts_with("| guarantee | chanbuf |\n| --- | --- |\n"),
        "{table}"
    );
}

#[test]
fn the_readme_lists_every_case() {
    let rows: String = cases()
        .iter()
        .map(|case| {
            let needs: Vec<_> = case.needs.iter().map(ToString::to_string).collect();
            format!(
                "| `{}` | {} | {} |\n",
                case.name,
                case.about,
                needs.join("; ")
            )
        })
        .collect();
    let readme = include_str!("../README.md");
    assert!(
        readme.contains(&rows),
        "put this table into README.md:\n{rows}"
    );
}
