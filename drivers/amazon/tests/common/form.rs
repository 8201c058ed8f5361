//! Requests and answers of SNS, which are forms and XML.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

/// What the fields of the entries of a batch begin with, before their number.
const ENTRY: &str = "PublishBatchRequestEntries.member.";

pub(super) fn fields(body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).unwrap();
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(name, value)| (decode(name), decode(value).into()));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// The form without the entries of these ids, the others numbered anew.
pub(super) fn without(fields: &Value, ids: &[&str]) -> String {
    let fields = fields.as_object().unwrap();
    let mut kept = Vec::new();
    for number in 1..=10 {
        if let Some(id) = fields.get(&format!("{ENTRY}{number}.Id"))
            && !ids.contains(&id.as_str().unwrap())
        {
            kept.push(number);
        }
    }
    let renamed = fields.iter().filter_map(|(name, value)| {
        let Some(rest) = name.strip_prefix(ENTRY) else {
            return Some((name.clone(), value));
        };
        let (number, field) = rest.split_once('.').unwrap();
        let number: usize = number.parse().unwrap();
        let new = kept.iter().position(|kept| *kept == number)? + 1;
        Some((format!("{ENTRY}{new}.{field}"), value))
    });
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let pairs = renamed.map(|(name, value)| {
        let value = value.as_str().unwrap();
        format!("{}={}", encode(&name), encode(value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// The answer, in which these entries failed too.
pub(super) fn with_failed(answer: &str, ids: &[&str], code: &str, ours: bool) -> String {
    let failed = ids.iter().map(|id| {
        format!(
            "<member><Id>{id}</Id><Code>{code}</Code><Message>as told</Message>\
             <SenderFault>{ours}</SenderFault></member>"
        )
    });
    let failed: String = failed.collect();
    let end = "</PublishBatchResult>";
    answer.replacen(end, &format!("<Failed>{failed}</Failed>{end}"), 1)
}
