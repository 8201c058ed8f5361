use streams_core::Event;

#[derive(Event)]
#[event(strem = "user.created")]
struct OnType;

#[derive(Event)]
struct OnField {
    #[event(keyed)]
    id: String,
}

#[derive(Event)]
struct OnTheWrongPlace {
    #[event(stream = "user.created")]
    id: String,
}

#[derive(Event)]
#[event(header = "tenant")]
struct HeaderOnType {
    tenant: String,
}

fn main() {}
