use serde::{Deserialize, Serialize};
use streams_core::{Bus, Context};

#[derive(Serialize, Deserialize)]
struct UserCreated;

async fn publish(bus: &Bus) {
    let _ = bus.publish(&UserCreated).await;
    let _ = bus.subscribe("a", |_: UserCreated, _: Context| async {});
}

fn main() {}
