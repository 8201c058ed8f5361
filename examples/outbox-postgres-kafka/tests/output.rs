//! Runs the program and reads what it prints.

use std::process::Command;

use sqlx::postgres::PgPool;
use streams_core::ErrorKind;
use streams_kafka::Kafka;
use streams_services::Service;

const POSTGRES: &str = "STREAMS_POSTGRES_URL";
const KAFKA: &str = "STREAMS_KAFKA_BROKERS";

const EXPECTED: &str = "\
Ada pays 30
Grace pays 500: rolled back: the balance is too small
Tony pays 20
Ada pays 5
relay: wrote 3 messages, but is not told
relay: wrote 3 messages, and is told
in the outbox: 0
ledger: 6 deliveries, booked:
  Ada 5
  Ada 30
  Tony 20
";

/// Runs it; the id of the run. What it prints besides is as expected: Grace's payment is nowhere.
fn run(variables: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_outbox-postgres-kafka"))
        .env_remove(POSTGRES)
        .env_remove(KAFKA)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (first, rest) = stdout.split_once('\n').unwrap();
    assert_eq!(rest, EXPECTED);
    first.strip_prefix("run ").unwrap().to_owned()
}

#[tokio::test]
async fn prints_this_and_cleans_up() {
    let postgres = Service::Postgres.address().unwrap();
    let brokers = Service::Kafka.address().unwrap();
    let run = run(&[(POSTGRES, &postgres), (KAFKA, &brokers)]);

    let kafka = Kafka::builder(&brokers).build().unwrap();
    let gone = kafka.partitions(format!("payment.made.{run}")).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    let pool = PgPool::connect(&postgres).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pg_namespace WHERE nspname LIKE $1")
        .bind(format!("%{run}"))
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn without_variables_it_starts_its_servers() {
    run(&[]);
}
