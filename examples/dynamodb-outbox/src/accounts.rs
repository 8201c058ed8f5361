//! The service's own table.

use std::error::Error;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, TransactWriteItem, Update,
};
use streams_dynamodb::DynamoDb;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A table of accounts, each with its balance.
pub(crate) struct Accounts {
    client: Client,
    table: String,
}

impl Accounts {
    /// Makes the table, with 100 in each account.
    pub(crate) async fn create(dynamodb: &DynamoDb, table: String) -> Result<Self> {
        let client = dynamodb.client().clone();
        let key = KeySchemaElement::builder()
            .attribute_name("owner")
            .key_type(KeyType::Hash);
        let owner = AttributeDefinition::builder().attribute_name("owner");
        let owner = owner.attribute_type(ScalarAttributeType::S);
        client
            .create_table()
            .table_name(&table)
            .billing_mode(BillingMode::PayPerRequest)
            .key_schema(key.build()?)
            .attribute_definitions(owner.build()?)
            .send()
            .await?;
        for owner in ["Ada", "Grace"] {
            client
                .put_item()
                .table_name(&table)
                .item("owner", AttributeValue::S(owner.into()))
                .item("balance", AttributeValue::N("100".into()))
                .send()
                .await?;
        }
        Ok(Self { client, table })
    }

    /// An item for a transaction, which is cancelled if there is not as much.
    pub(crate) fn withdraw(&self, owner: &str, amount: i64) -> Result<TransactWriteItem> {
        let update = Update::builder()
            .table_name(&self.table)
            .key("owner", AttributeValue::S(owner.into()))
            .update_expression("SET balance = balance - :amount")
            .condition_expression("balance >= :amount")
            .expression_attribute_values(":amount", AttributeValue::N(amount.to_string()));
        Ok(TransactWriteItem::builder().update(update.build()?).build())
    }

    pub(crate) async fn balance(&self, owner: &str) -> Result<String> {
        let get = self.client.get_item().table_name(&self.table);
        let get = get.key("owner", AttributeValue::S(owner.into()));
        let item = get.consistent_read(true).send().await?.item;
        let balance = item.as_ref().and_then(|item| item["balance"].as_n().ok());
        Ok(balance.cloned().unwrap_or_default())
    }

    pub(crate) async fn delete(&self) -> Result<()> {
        self.client
            .delete_table()
            .table_name(&self.table)
            .send()
            .await?;
        Ok(())
    }
}
