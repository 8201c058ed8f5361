//! The workloads whose instructions are counted: `instructions bus|dispatch MESSAGES`.

use streams_bench::bus::{self, Subscribed};
use streams_bench::flood::Flood;
use streams_bench::{BATCH, Source};
use streams_chanbuf::Chanbuf;
use streams_core::Acknowledgement;
use tokio::runtime::Builder;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (workload, messages) = match &arguments[..] {
        [workload, messages] => (&**workload, messages.parse().ok()),
        _ => ("", None),
    };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    match (workload, messages) {
        ("bus", Some(messages)) => runtime.block_on(publish_to_settled(messages)),
        ("dispatch", Some(messages)) => runtime.block_on(dispatch(messages)),
        _ => panic!("usage: instructions bus|dispatch MESSAGES"),
    }
}

async fn publish_to_settled(messages: usize) {
    let mut source = Source::new(0);
    let driver = Chanbuf::new();
    let bus = bus::start(driver.clone(), &source, Subscribed::default()).await;
    bus::publish(bus.publisher(), messages, BATCH, &mut source).await;
    bus::idle(&bus, &driver).await;
}

async fn dispatch(messages: usize) {
    let mut source = Source::new(64);
    let made = (0..64).map(|_| source.message()).collect();
    let driver = Flood::new(Acknowledgement::Individual, made);
    let _bus = bus::start(driver.clone(), &source, Subscribed::default()).await;
    driver.run(messages).await;
}
