use std::sync::Arc;

use streams_core::{AnyDriver, Bus, Driver, DriverOptions, Message, OptionFor, Reader, Writer};

#[derive(Clone)]
struct Mine(AnyDriver);

impl Driver for Mine {
    fn reader(&self) -> Arc<dyn Reader> {
        self.0.reader()
    }
    fn writer(&self) -> Arc<dyn Writer> {
        self.0.writer()
    }
}

#[derive(Debug)]
struct MyOptions;

impl DriverOptions for MyOptions {
    const DRIVER: &'static str = "mine";
}
impl OptionFor<Mine> for MyOptions {}

#[derive(Debug)]
struct OtherOptions;

impl DriverOptions for OtherOptions {
    const DRIVER: &'static str = "other";
}

fn subscribe(bus: &Bus<Mine>) {
    let subscription = bus.subscribe_stream("a", |_: Message, _| async {});
    let _ = subscription.option(MyOptions).option(OtherOptions);
}

fn main() {}
