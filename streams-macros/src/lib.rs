//! `#[derive(Event)]` for `streams-core`, which re-exports it under its feature `derive`.

mod attributes;
mod expand;
mod stream_name;

/// Makes a type an event: implements `streams_core::Event` for it.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use streams_core::{Event, Key};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(stream = "order.placed", key = "order_id", version = 2)]
/// struct OrderPlaced {
///     order_id: u64,
///     #[event(header = "tenant")]
///     tenant: String,
/// }
///
/// let schema = OrderPlaced::schema();
/// assert_eq!(schema.name(), "OrderPlaced");
/// assert_eq!(schema.declared_stream(), Some("order.placed"));
/// assert_eq!(schema.declared_version(), 2);
///
/// let event = OrderPlaced { order_id: 17, tenant: "acme".to_owned() };
/// assert_eq!(event.key(), Some(Key::from("17")));
/// assert_eq!(event.headers().get_str("tenant"), Some("acme"));
/// ```
///
/// # On the type
///
/// | in `#[event(..)]` | meaning | default |
/// | --- | --- | --- |
/// | `stream = "order.placed"` | the stream it is published to; checked when compiled | none: register it with `register_to`, or subscribe it to a stream |
/// | `name = "OrderPlaced"` | the event's name | the type's name |
/// | `version = 2` | the version of its form, 1 or more | 1 |
/// | `codec = "json"`, `codec("json", "protobuf")` | how it is written and read: the first writes, all read | `"json"` |
/// | `key = "order_id"` | the field that is the message's key | no key |
/// | `crate = "my_reexport::streams_core"` | where `streams-core` is, for macros and re-exports | `::streams_core` |
///
/// The codec `"json"` wants serde's `Serialize` and `Deserialize`, `"protobuf"` wants
/// `prost::Message`.
///
/// # On a field
///
/// | in `#[event(..)]` | meaning |
/// | --- | --- |
/// | `key` | this field is the message's key: the same as `key = ".."` on the type |
/// | `header = "tenant"` | this field is sent as that header too |
///
/// A key or header is made of any field that implements `Display` (text, numbers, UUIDs, types of
/// your own), or of bytes (`Vec<u8>`, `Bytes`, `[u8; N]`). An `Option` that is `None` gives none.
///
/// Structs of any shape and enums can be events; the variants of an enum share no field, so that it
/// has neither key nor headers unless `Event` is implemented by hand.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    expand::event(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
