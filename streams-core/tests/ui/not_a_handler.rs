use streams_core::{Bus, Context, Message};

fn subscribe(bus: &Bus) {
    let _ = bus.subscribe_stream("a", |_: Message| async {});
    let _ = bus.subscribe_stream("a", |_: Message, _: Context| async { 17 });
}

fn main() {}
