use streams_core::Event;

#[derive(Event)]
#[event(stream = "user.created", key = "user_id")]
struct UserCreated {
    id: String,
    name: String,
}

#[derive(Event)]
#[event(stream = "user.created", key = "user_id")]
struct Empty;

#[derive(Event)]
#[event(stream = "user.created", key = "user_id")]
struct Tuple(String);

fn main() {}
