use streams_core::Event;

#[derive(Event)]
#[event(stream = "a")]
struct NotJson;

#[derive(Event)]
#[event(stream = "a", codec = "protobuf")]
struct NotProtobuf;

fn main() {}
