//! The table of drivers and their guarantees, for the documentation.

use streams_chanbuf::Chanbuf;
use streams_core::{AnyDriver, Driver};
use streams_testkit::guarantees_table;

fn main() {
    let readers = [AnyDriver::from_driver(&Chanbuf::new()).reader()];
    let capabilities: Vec<_> = readers.iter().map(|reader| reader.capabilities()).collect();
    print!("{}", guarantees_table(&capabilities));
}
