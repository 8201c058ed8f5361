use streams_core::Event;

#[derive(Event)]
union Union {
    a: u8,
}

#[derive(Event)]
#[event(key = "id")]
enum KeyOnEnum {
    A { id: String },
}

#[derive(Event)]
enum KeyInVariant {
    A {
        #[event(key)]
        id: String,
    },
}

#[derive(Event)]
struct Borrowed<'a> {
    id: &'a str,
}

fn main() {}
