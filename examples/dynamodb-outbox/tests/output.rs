//! Runs the program and reads what it prints.

use std::process::Command;

use streams_dynamodb::DynamoDb;
use streams_services::Service;

const ENDPOINT: &str = "STREAMS_DYNAMODB_ENDPOINT";

const EXPECTED: &str = "\
Ada pays 30
Grace pays 500
  cancelled
Ada pays 5
in the outbox: 2
receipt: Ada paid 30
receipt: Ada paid 5
relayed: 2 messages
in the outbox: 0
balance of Ada: 65
balance of Grace: 100
";

/// Runs it; the id of the run. What it prints besides is as expected: Grace's payment is nowhere.
fn run(variables: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamodb-outbox"))
        .env_remove(ENDPOINT)
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
    let endpoint = Service::DynamoDb.address().unwrap();
    let run = run(&[(ENDPOINT, &endpoint)]);
    let dynamodb = DynamoDb::builder()
        .region("eu-west-1")
        .endpoint(endpoint)
        .access_key("local", "local")
        .build()
        .await
        .unwrap();
    let tables = dynamodb.client().list_tables().send().await.unwrap();
    let left = tables
        .table_names()
        .iter()
        .filter(|name| name.ends_with(&run));
    assert_eq!(left.count(), 0);
}

#[test]
fn without_a_variable_it_starts_its_server() {
    run(&[]);
}
