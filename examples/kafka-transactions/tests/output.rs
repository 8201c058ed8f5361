//! Runs the program and reads what it prints.

use std::process::Command;

use streams_core::ErrorKind;
use streams_kafka::Kafka;
use streams_services::Service;

const VARIABLE: &str = "STREAMS_KAFKA_BROKERS";

#[tokio::test]
async fn prints_this_and_cleans_up() {
    let brokers = Service::Kafka.address().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kafka-transactions"))
        .env(VARIABLE, &brokers)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let expected = "\
order 11: refused, TooLarge
orders:       [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
reservations: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

billing starts
order 7: the invoice is published, and the process dies
invoices for: []

billing starts
order 3: the invoice is published, and the handler fails
10 orders handled
invoices for: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
";
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (first, rest) = stdout.split_once('\n').unwrap();
    assert_eq!(rest, expected);

    let run = first.strip_prefix("run ").unwrap();
    let kafka = Kafka::builder(&brokers).build().unwrap();
    for topic in ["order.placed", "stock.reserved", "invoice.due"] {
        let gone = kafka.partitions(format!("{topic}.{run}")).await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn without_brokers_it_says_what_to_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_kafka-transactions"))
        .env_remove(VARIABLE)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: it is not said where Kafka is; set STREAMS_KAFKA_BROKERS"));
}
