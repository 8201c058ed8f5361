//! The table of drivers and their guarantees, for the documentation. Each driver is made with its
//! defaults; none is connected.

use streams_chanbuf::Chanbuf;
use streams_core::{Driver, Result};
use streams_kafka::Kafka;
use streams_testkit::guarantees_table;

fn main() -> Result<()> {
    let kafka = Kafka::builder("localhost:9092").build()?;
    let readers = [Chanbuf::new().reader(), kafka.reader()];
    let capabilities: Vec<_> = readers.iter().map(|reader| reader.capabilities()).collect();
    print!("{}", guarantees_table(&capabilities));
    Ok(())
}
