use streams_core::{Bus, Context, Handler, HandlerResult, Outcome};

struct NotAHandler;

struct OfSingles;

impl Handler for OfSingles {
    async fn handle(&self, _: &Context) -> HandlerResult {
        Ok(Outcome::Ack)
    }
}

fn subscribe(bus: &Bus) {
    let _ = bus.subscribe_handler("a", NotAHandler);
    let _ = bus.subscribe_batch_handler("a", 10, OfSingles);
}

fn main() {}
