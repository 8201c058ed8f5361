//! What `#[derive(Event)]` writes, from the publisher's message to the handler's event.
#![cfg(feature = "derive")]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streams_core::{
    ContentType, Context, Event, EventRegistry, Handler, Key, Message, NoopWriter, Outcome,
    Publisher, event_fn,
};

#[path = "../../streams-macros/src/stream_name.rs"]
mod stream_name;

/// The event as a publisher writes it, and as a handler reads that.
async fn round_trip<E: Event + Clone>(event: &E) -> (Message, E) {
    let registry = EventRegistry::new();
    registry.register::<E>().unwrap();
    let publisher = Publisher::builder(Arc::new(NoopWriter::new()))
        .registry(registry)
        .build();
    let message = publisher
        .messages(std::slice::from_ref(event))
        .unwrap()
        .remove(0);
    let event = read::<E>(message.clone()).await;
    (message, event)
}

async fn read<E: Event + Clone>(message: Message) -> E {
    let seen = Arc::new(Mutex::new(None));
    let handler = event_fn({
        let seen = seen.clone();
        move |event: E, _: Context| {
            *seen.lock().unwrap() = Some(event);
            async {}
        }
    });
    assert_eq!(
        handler.handle(&Context::for_test(message)).await.unwrap(),
        Outcome::Ack
    );
    let event = seen.lock().unwrap().take();
    event.unwrap()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "order.placed", key = "order_id", version = 2)]
struct OrderPlaced {
    order_id: String,
    #[event(header = "tenant")]
    tenant: String,
    #[event(header = "region")]
    region: Option<String>,
    amount: u32,
}

#[tokio::test]
async fn json_is_the_default() {
    let event = OrderPlaced {
        order_id: "o-17".to_owned(),
        tenant: "acme".to_owned(),
        region: None,
        amount: 3,
    };
    let (message, read) = round_trip(&event).await;
    assert_eq!(read, event);
    assert_eq!(message.stream(), &"order.placed");
    assert_eq!(message.key(), Some(&Key::from("o-17")));
    assert_eq!(message.content_type(), &ContentType::JSON);
    let headers: Vec<_> = message.headers().iter().collect();
    assert_eq!(
        headers,
        [("tenant", &b"acme"[..])],
        "a header of `None` is not sent"
    );

    let schema = OrderPlaced::schema();
    assert_eq!(schema.name(), "OrderPlaced");
    assert_eq!(schema.declared_version(), 2);
}

#[derive(Clone, PartialEq, prost::Message, Event)]
#[event(stream = "payment.taken", name = "PaymentTaken", codec = "protobuf")]
struct Payment {
    #[prost(uint64, tag = "1")]
    #[event(key)]
    account: u64,
    #[prost(string, optional, tag = "2")]
    #[event(header = "currency")]
    currency: Option<String>,
}

#[tokio::test]
async fn protobuf_by_prost() {
    let event = Payment {
        account: 7,
        currency: Some("EUR".to_owned()),
    };
    let (message, read) = round_trip(&event).await;
    assert_eq!(read, event);
    assert_eq!(message.content_type(), &ContentType::PROTOBUF);
    assert_eq!(message.key(), Some(&Key::from("7")));
    assert_eq!(message.headers().get_str("currency"), Some("EUR"));
    assert_eq!(prost::Message::encode_to_vec(&event), message.data()[..]);
    assert_eq!(Payment::schema().name(), "PaymentTaken");
    assert_eq!(Payment::schema().declared_version(), 1);
}

#[derive(Clone, PartialEq, Serialize, Deserialize, prost::Message, Event)]
#[event(stream = "both", codec("protobuf", "json"))]
struct Both {
    #[prost(string, tag = "1")]
    text: String,
}

#[tokio::test]
async fn the_first_codec_writes_and_all_read() {
    let event = Both {
        text: "x".to_owned(),
    };
    let (message, read_back) = round_trip(&event).await;
    assert_eq!(message.content_type(), &ContentType::PROTOBUF);
    assert_eq!(read_back, event);
    let json = message
        .to_builder()
        .content_type(ContentType::JSON)
        .data(r#"{"text":"x"}"#);
    assert_eq!(read::<Both>(json.build().unwrap()).await, event);
    assert!(event.key().is_none() && event.headers().is_empty());
}

#[derive(Clone, Serialize, Deserialize, Event)]
#[event(stream = "keys")]
struct ByUuid {
    #[event(key, header = "entity")]
    id: uuid::Uuid,
}

#[derive(Clone, Serialize, Deserialize, Event)]
#[event(stream = "keys", key = "type")]
struct ByMaybe {
    r#type: Option<i8>,
}

#[derive(Clone, PartialEq, prost::Message, Event)]
#[event(stream = "keys", codec = "protobuf")]
struct ByBytes {
    #[prost(bytes = "bytes", tag = "1")]
    #[event(key)]
    id: Bytes,
    #[prost(bytes, optional, tag = "2")]
    #[event(header = "signature")]
    signature: Option<Vec<u8>>,
}

#[derive(Clone, Serialize, Deserialize, Event)]
#[event(stream = "keys", key = "0")]
struct ByPosition([u8; 2], #[event(header = "second")] String);

#[test]
fn keys_and_headers_of_many_types() {
    let id = uuid::Uuid::from_u128(17);
    let event = ByUuid { id };
    assert_eq!(event.key(), Some(Key::from(id.to_string())));
    assert_eq!(event.headers().get_str("entity"), Some(&*id.to_string()));

    assert_eq!(ByMaybe { r#type: Some(-3) }.key(), Some(Key::from("-3")));
    assert_eq!(ByMaybe { r#type: None }.key(), None);

    let event = ByBytes {
        id: Bytes::from_static(&[0, 255]),
        signature: Some(vec![255]),
    };
    assert_eq!(event.key().unwrap().as_bytes(), [0, 255]);
    assert_eq!(event.headers().get("signature"), Some(&[255][..]));

    let event = ByPosition([0, 255], "x".to_owned());
    assert_eq!(event.key().unwrap().as_bytes(), [0, 255]);
    assert_eq!(event.headers().get_str("second"), Some("x"));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "light")]
enum Light {
    Red,
    Green { seconds: u8 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
struct Tick;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(stream = "changes", key = "id")]
struct Change<T> {
    id: u8,
    #[serde(bound(deserialize = "T: for<'a> Deserialize<'a>"))]
    of: T,
}

#[tokio::test]
async fn enums_units_and_generics() {
    let event = Light::Green { seconds: 3 };
    assert_eq!(round_trip(&event).await.1, event);
    assert_eq!(round_trip(&Light::Red).await.1, Light::Red);
    assert!(event.key().is_none());

    assert_eq!(Tick::schema().declared_stream(), None);

    let event = Change {
        id: 1,
        of: "x".to_owned(),
    };
    let (message, read) = round_trip(&event).await;
    assert_eq!(read, event);
    assert_eq!(message.key(), Some(&Key::from("1")));
}

mod inner {
    pub(crate) use streams_core as renamed;
}

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "a", crate = "crate::inner::renamed")]
struct Elsewhere {
    #[event(key)]
    id: u8,
}

#[test]
fn the_core_crate_may_be_elsewhere() {
    assert_eq!(Elsewhere { id: 1 }.key(), Some(Key::from("1")));
    assert_eq!(Elsewhere::schema().declared_stream(), Some("a"));
}

#[test]
fn the_macro_knows_the_rules_of_stream_names() {
    let long = "x".repeat(512);
    let longer = "x".repeat(513);
    let names = [
        "",
        "a",
        "a.b",
        "größe/1:a-b_c.d",
        "a b",
        "a\tb",
        "a\u{a0}b",
        "a\0",
        "a*",
        "a?",
        "[",
        "]",
        "\u{7f}",
        "\u{85}",
        &long,
        &longer,
    ];
    for name in names {
        let checked = streams_core::StreamName::new(name);
        match stream_name::problem(name) {
            None => assert!(checked.is_ok(), "{name:?}"),
            Some(problem) => {
                let error = checked.unwrap_err().to_string();
                assert!(error.contains(&problem), "{name:?}: {error} / {problem}");
            }
        }
    }
}
