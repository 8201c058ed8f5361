use streams_core::Event;

#[derive(Event)]
#[event(stream = "a", stream = "b")]
struct TwoStreams;

#[derive(Event)]
#[event(stream = "a")]
#[event(version = 1)]
#[event(version = 2)]
struct TwoVersions;

#[derive(Event)]
#[event(key = "id")]
struct TwoKeys {
    id: String,
    #[event(key)]
    other: String,
}

#[derive(Event)]
struct TwoHeaders {
    #[event(header = "tenant")]
    tenant: String,
    #[event(header = "tenant")]
    owner: String,
}

#[derive(Event)]
#[event(codec("json", "json"))]
struct TwoCodecs;

fn main() {}
