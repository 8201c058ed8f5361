use serde::{Deserialize, Serialize};
use streams_core::Event;

#[derive(Serialize, Deserialize)]
struct Address;

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "a", key = "address")]
struct ByAddress {
    address: Address,
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "a")]
struct WithHeader {
    #[event(header = "address")]
    address: Option<Address>,
}

fn main() {}
