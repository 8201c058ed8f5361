use std::net::SocketAddr;

use streams_services::{DynamoDb, ElasticMq, Moto};

use crate::{assert_only_on_loopback, crash, post};

fn authorization(service: &str) -> String {
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential=any/20200101/us-east-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=any"
    )
}

fn query(address: SocketAddr, service: &str, path: &str, parameters: &str) -> String {
    let form = "Content-Type: application/x-www-form-urlencoded";
    post(address, path, &[&authorization(service), form], parameters)
}

fn send_and_receive(address: SocketAddr) {
    let created = query(address, "sqs", "/", "Action=CreateQueue&QueueName=orders");
    let url = created.split("<QueueUrl>").nth(1).unwrap();
    let url = url.split("</QueueUrl>").next().unwrap();
    // The address it tells must be the one it is at.
    let path = url.strip_prefix(&format!("http://{address}")).unwrap();
    query(address, "sqs", path, "Action=SendMessage&MessageBody=hello");
    let received = query(address, "sqs", path, "Action=ReceiveMessage");
    assert!(received.contains("<Body>hello</Body>"), "{received}");
}

#[test]
fn dynamodb() {
    let dynamodb = DynamoDb::new().start().unwrap();
    assert_only_on_loopback(&dynamodb);
    let ask = |action: &str, body| {
        let target = format!("X-Amz-Target: DynamoDB_20120810.{action}");
        let json = "Content-Type: application/x-amz-json-1.0";
        let authorization = authorization("dynamodb");
        post(
            dynamodb.address(),
            "/",
            &[&target, json, &authorization],
            body,
        )
    };
    ask(
        "CreateTable",
        r#"{"TableName": "orders", "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}]}"#,
    );
    crash(&dynamodb);
    let tables = ask("ListTables", "{}");
    assert!(tables.ends_with(r#"{"TableNames":["orders"]}"#), "{tables}");
}

#[test]
fn moto() {
    let moto = Moto::new().start().unwrap();
    assert_only_on_loopback(&moto);
    send_and_receive(moto.address());
    let topic = query(moto.address(), "sns", "/", "Action=CreateTopic&Name=orders");
    assert!(topic.contains(":orders</TopicArn>"), "{topic}");
    crash(&moto);
}

#[test]
fn elasticmq() {
    let elasticmq = ElasticMq::new().start().unwrap();
    assert_only_on_loopback(&elasticmq);
    send_and_receive(elasticmq.address());
    crash(&elasticmq);
}
