use streams_core::Event;

#[derive(Event)]
#[event(stream)]
struct NoValue;

#[derive(Event)]
#[event(key = id)]
struct NotInQuotes {
    id: String,
}

#[derive(Event)]
#[event(version = "2")]
struct VersionAsText;

#[derive(Event)]
#[event(version = 0)]
struct VersionZero;

#[derive(Event)]
#[event(codec = "xml")]
struct UnknownCodec;

#[derive(Event)]
#[event(codec())]
struct NoCodec;

#[derive(Event)]
#[event(name = "")]
struct NoName;

#[derive(Event)]
struct KeyWithValue {
    #[event(key = "id")]
    id: String,
}

#[derive(Event)]
#[event(crate = "not a path")]
struct BadCrate;

fn main() {}
