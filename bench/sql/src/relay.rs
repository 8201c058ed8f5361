//! From the outbox to a writer that does nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Row as _};
use streams_bench::pairs::compare;
use streams_core::NoopWriter;
use streams_sql::{Cleanup, Relay};

use crate::setup::Setup;

/// Rows of each run.
const ROWS: usize = 20_000;

pub(crate) fn measure(setup: &Setup) -> (f64, String) {
    let (outbox, table) = setup.outbox();
    let relay = Relay::builder(outbox.clone(), Arc::new(NoopWriter::new()));
    let relay = relay.build().expect("valid settings");
    let raw = || {
        setup.fill(&outbox, &table, ROWS, 0);
        let begun = Instant::now();
        delete_returning(setup, &table);
        begun.elapsed()
    };
    let ours = || {
        setup.fill(&outbox, &table, ROWS, 0);
        run(setup, &relay)
    };
    let compared = compare(raw, ours);
    setup.drop(&table);
    (
        compared.ratio,
        format!(
            "{:.0} rows/s; DELETE .. RETURNING of 500 {:.0} rows/s",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}

/// What it costs that rows were forwarded before and are kept.
pub(crate) fn behind(setup: &Setup) -> (f64, String) {
    let with = |behind| {
        let (outbox, table) = setup.outbox();
        setup.fill(&outbox, &table, behind, 1);
        let relay = Relay::builder(outbox.clone(), Arc::new(NoopWriter::new()))
            .cleanup(Cleanup::Keep(Duration::from_secs(86_400)))
            .build()
            .expect("valid settings");
        (outbox, table, relay)
    };
    let (few, many) = (with(1_000), with(1_000_000));
    let run = |(outbox, table, relay): &(_, String, _)| {
        setup.fill(outbox, table, ROWS, 0);
        let took = run(setup, relay);
        setup.execute(format!("DELETE FROM {table} WHERE batch_id LIKE '00000%'"));
        took
    };
    let compared = compare(|| run(&few), || run(&many));
    setup.drop(&few.1);
    setup.drop(&many.1);
    (
        compared.ratio,
        format!(
            "{:.0} rows/s; with 1,000 {:.0} rows/s",
            rate(compared.b),
            rate(compared.a)
        ),
    )
}

fn run(setup: &Setup, relay: &Relay<sqlx::Postgres>) -> Duration {
    let begun = Instant::now();
    let report = setup.runtime.block_on(relay.run_once()).expect("relayed");
    assert_eq!(report.rows, ROWS as u64);
    begun.elapsed()
}

/// The loop without a relay.
fn delete_returning(setup: &Setup, table: &str) {
    let sql: Arc<str> = format!(
        "DELETE FROM {table} WHERE batch_id IN (
             SELECT batch_id FROM {table} WHERE status = 0 ORDER BY sequence LIMIT 500
             FOR UPDATE SKIP LOCKED)
         RETURNING batch_id, raw_data"
    )
    .into();
    setup.runtime.block_on(async {
        let mut left = ROWS;
        while left > 0 {
            let rows = sqlx::query(AssertSqlSafe(sql.clone()))
                .fetch_all(&setup.pool)
                .await
                .expect("rows");
            left -= rows.len();
            for row in rows {
                let data: &[u8] = row.get(1);
                std::hint::black_box(data);
            }
        }
    });
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(took: Duration) -> f64 {
    ROWS as f64 / took.as_secs_f64()
}
