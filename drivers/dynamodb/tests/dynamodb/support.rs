//! What the tests share.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use streams_core::Message;
use streams_dynamodb::{DynamoDb, DynamoDbBuilder, NewTables, Outbox, OutboxBuilder};
pub(crate) use streams_outbox::testing::LONG;
use streams_services::Service;
use tokio::time::timeout;

use crate::proxy::HttpProxy;

/// A connection to a local server, which takes any access key.
pub(crate) fn connection(endpoint: &str) -> DynamoDbBuilder {
    DynamoDb::builder()
        .region("eu-west-1")
        .endpoint(endpoint)
        .access_key("local", "local")
        .request_timeout(LONG)
}

/// The address of the server that tests share.
pub(crate) async fn endpoint() -> String {
    let address = tokio::task::spawn_blocking(|| Service::DynamoDb.address());
    address.await.unwrap().unwrap()
}

/// A name that no other test has.
pub(crate) fn name(of: &str) -> String {
    format!("test-{of}-{:016x}", fastrand::u64(..))
}

/// An outbox of a test's own, with two partitions and a stream; behind a proxy for those who ask.
pub(crate) struct Setup {
    pub(crate) proxy: HttpProxy,
    pub(crate) outbox: Outbox,
    /// The same tables through the proxy.
    pub(crate) proxied: Outbox,
    pub(crate) dynamodb: DynamoDb,
    pub(crate) table: String,
    pub(crate) leases: String,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(&NewTables::new().partitions(2)).await
    }

    pub(crate) async fn with(tables: &NewTables) -> Self {
        Self::at(&endpoint().await, tables).await
    }

    pub(crate) async fn at(endpoint: &str, tables: &NewTables) -> Self {
        let proxy = HttpProxy::start(endpoint).await;
        let dynamodb = connection(endpoint).build().await.unwrap();
        let through = connection(&proxy.endpoint());
        let through = through.build();
        let (table, leases) = (name("outbox"), name("leases"));
        let named = |builder: OutboxBuilder| builder.table(&table).leases_table(&leases);
        let outbox = named(Outbox::builder(dynamodb.clone())).build().unwrap();
        outbox.migrate(tables).await.unwrap();
        let proxied = named(Outbox::builder(through.await.unwrap())).build();
        Self {
            proxied: proxied.unwrap(),
            proxy,
            outbox,
            dynamodb,
            table,
            leases,
        }
    }

    /// The same outbox of another process, which shares nothing with this one.
    pub(crate) fn other(&self, dynamodb: DynamoDb) -> Outbox {
        let other = Outbox::builder(dynamodb);
        let other = other.table(&self.table).leases_table(&self.leases);
        other.build().unwrap()
    }

    /// Cleans up.
    pub(crate) async fn end(self) {
        self.outbox.delete_tables().await.unwrap();
    }

    /// How many items a table has.
    pub(crate) async fn count(&self, partition: &str) -> usize {
        let query = self.dynamodb.client().query().table_name(&self.table);
        let query = query.key_condition_expression("partition_id = :partition");
        let partition = AttributeValue::S(partition.to_owned());
        let query = query.expression_attribute_values(":partition", partition);
        let found = query.consistent_read(true).send().await.unwrap();
        found.items().len()
    }

    /// Whether [`new_item`] is there; asked until there is an answer.
    pub(crate) async fn has_item(&self, id: &str) -> bool {
        loop {
            let get = self.dynamodb.client().get_item().table_name(&self.table);
            let get = get
                .key("partition_id", AttributeValue::S(format!("own-{id}")))
                .key("sequence_id", AttributeValue::S("own".to_owned()));
            if let Ok(got) = get.consistent_read(true).send().await {
                return got.item.is_some();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Puts an item beside the outbox's API.
    pub(crate) async fn put(&self, partition: &str, sequence: &str, raw_data: Option<&[u8]>) {
        let put = self.dynamodb.client().put_item().table_name(&self.table);
        let put = put
            .item("partition_id", AttributeValue::S(partition.to_owned()))
            .item("sequence_id", AttributeValue::S(sequence.to_owned()));
        let put = match raw_data {
            Some(data) => put.item("raw_data", AttributeValue::B(data.to_vec().into())),
            None => put,
        };
        put.send().await.unwrap();
    }
}

/// A put of an item with an id, which must not be there yet.
pub(crate) fn new_item(table: &str, id: &str) -> TransactWriteItem {
    let put = Put::builder()
        .table_name(table)
        .item("partition_id", AttributeValue::S(format!("own-{id}")))
        .item("sequence_id", AttributeValue::S("own".to_owned()))
        .condition_expression("attribute_not_exists(partition_id)");
    TransactWriteItem::builder()
        .put(put.build().unwrap())
        .build()
}

pub(crate) fn message(stream: &str, key: &str, number: usize) -> Message {
    let message = Message::builder(stream).key(key).data(number.to_string());
    message.build().unwrap()
}

/// Writes messages in a transaction of their own.
pub(crate) async fn commit(outbox: &Outbox, messages: &[Message]) {
    let mut tx = outbox.begin();
    tx.writer().write(messages).await.unwrap();
    tx.commit().await.unwrap();
}

/// Waits until the outbox has no rows that are to be relayed.
pub(crate) async fn until_empty(outbox: &Outbox) {
    until(|| async { outbox.pending().await.unwrap() == 0 }).await;
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(good: impl Fn() -> F) {
    let waiting = async {
        while !good().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, waiting).await.expect("it comes to that");
}
