//! The table of drivers and their guarantees, for the documentation. Each driver is made with its
//! defaults; none is connected.

use streams_amazon::{Sns, Sqs};
use streams_chanbuf::Chanbuf;
use streams_core::{Driver, Error, Result};
use streams_kafka::Kafka;
use streams_redis::Redis;
use streams_sql::SqlQueue;
use streams_testkit::guarantees_table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let kafka = Kafka::builder("localhost:9092").build()?;
    let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:");
    let pool = pool.map_err(|error| Error::invalid_config(error.to_string()))?;
    let sql = SqlQueue::builder(pool).build()?;
    // Some region and credentials, so that none are looked for.
    let sqs = Sqs::builder()
        .region("eu-west-1")
        .access_key("id", "secret");
    let sns = Sns::builder()
        .region("eu-west-1")
        .access_key("id", "secret");
    let redis = Redis::builder("redis://localhost:6379").build()?;
    let readers = [
        Chanbuf::new().reader(),
        kafka.reader(),
        redis.reader(),
        sqs.build().await?.reader(),
        sns.build().await?.reader(),
        sql.reader(),
    ];
    let capabilities: Vec<_> = readers.iter().map(|reader| reader.capabilities()).collect();
    print!("{}", guarantees_table(&capabilities));
    Ok(())
}
