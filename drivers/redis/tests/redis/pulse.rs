//! The other half: entries and groups as the Go library `pulse` makes and reads them.

use std::collections::HashMap;

use redis::Cmd;
use streams_core::{Message, unix_millis};
use streams_redis::{EVENT_NAME, TOPIC};

use crate::support::{GROUP, Test, handle, take};

#[tokio::test]
async fn an_event_of_pulse_is_read() {
    let test = Test::shared().await;
    let mut add = Cmd::new();
    add.arg("XADD")
        .arg(test.key())
        .arg(&["MAXLEN", "~", "1000", "*"]);
    add.arg(&["n", "OrderPaid", "p", "{\"id\":1}", "t", "eu"]);
    let id: String = test.ask(&add).await;
    let mut reader = test.member().await;
    let delivery = take(&mut *reader, 1).await.remove(0);
    let message = &delivery.message;
    assert_eq!(message.data(), "{\"id\":1}");
    assert_eq!(message.headers().get_str(EVENT_NAME), Some("OrderPaid"));
    assert_eq!(message.headers().get_str(TOPIC), Some("eu"));
    assert_eq!(message.id().as_str(), format!("{}:{id}", test.stream));
    let millis = id.split('-').next().unwrap();
    assert_eq!(unix_millis(message.time()).to_string(), millis);
}

#[tokio::test]
async fn pulse_reads_a_message_as_an_event() {
    let test = Test::shared().await;
    let event = Message::builder(&test.stream)
        .data("data")
        .header(EVENT_NAME, "OrderPaid")
        .header(TOPIC, "eu")
        .header("trace", "1");
    test.write(&[event.build().unwrap(), test.message("plain")])
        .await;
    let mut read = Cmd::new();
    read.arg("XRANGE").arg(test.key()).arg("-").arg("+");
    let entries: Vec<(String, HashMap<String, String>)> = test.ask(&read).await;
    let of = |index: usize, field: &str| entries[index].1.get(field).map(String::as_str);
    assert_eq!(
        (of(0, "n"), of(0, "p"), of(0, "t")),
        (Some("OrderPaid"), Some("data"), Some("eu"))
    );
    // An event has a name: without one of its own, the stream's.
    assert_eq!((of(1, "n"), of(1, "t")), (Some(&*test.stream), None));
}

#[tokio::test]
async fn members_of_both_share_a_group() {
    let test = Test::shared().await;
    // As pulse makes a sink, and reads and acknowledges with it.
    let mut create = Cmd::new();
    create
        .arg("XGROUP")
        .arg("CREATE")
        .arg(test.key())
        .arg(GROUP);
    create.arg("0").arg("MKSTREAM");
    let _: () = test.ask(&create).await;
    test.write(&test.messages(4)).await;
    let mut read = Cmd::new();
    read.arg("XREADGROUP")
        .arg("GROUP")
        .arg(GROUP)
        .arg("go-consumer");
    read.arg("COUNT")
        .arg(2)
        .arg("STREAMS")
        .arg(test.key())
        .arg(">");
    type Entries = Vec<(String, HashMap<String, String>)>;
    let mut streams: Vec<(String, Entries)> = test.ask(&read).await;
    let entries = streams.remove(0).1;
    assert_eq!((&*entries[0].1["p"], &*entries[1].1["p"]), ("0", "1"));
    let mut ack = Cmd::new();
    ack.arg("XACK")
        .arg(test.key())
        .arg(GROUP)
        .arg(&entries[0].0);
    assert_eq!(test.ask::<u32>(&ack).await, 1);
    // The rest comes here, also what the other member read and did not acknowledge.
    let mut reader = test.member().await;
    let mut data = handle(&mut *reader, 3).await;
    data.sort();
    assert_eq!(data, ["1", "2", "3"]);
    // Its consumer stays: it is not ours to forget.
    let mut consumers = Cmd::new();
    consumers
        .arg("XINFO")
        .arg("CONSUMERS")
        .arg(test.key())
        .arg(GROUP);
    let consumers: Vec<HashMap<String, redis::Value>> = test.ask(&consumers).await;
    let names = consumers
        .iter()
        .map(|c| redis::from_redis_value::<String>(c["name"].clone()));
    assert!(names.map(Result::unwrap).any(|name| name == "go-consumer"));
}
