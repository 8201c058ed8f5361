//! Items and their attributes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_types::Blob;

pub(crate) type Item = HashMap<String, AttributeValue>;

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn number(value: impl ToString + Copy) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn bytes(value: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

/// An item with these attributes.
pub(crate) fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    let attributes = attributes.into_iter();
    attributes
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The text of an attribute, if it is one.
pub(crate) fn get_text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// The number of an attribute, if it is one.
pub(crate) fn get_number<T: std::str::FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// The bytes of an attribute, if it has any.
pub(crate) fn get_bytes<'a>(item: &'a Item, name: &str) -> Option<&'a [u8]> {
    item.get(name)?.as_b().ok().map(Blob::as_ref)
}

/// How many bytes an item counts as, about: what the documentation says of each type.
pub(crate) fn size(item: &Item) -> usize {
    let attributes = item.iter();
    attributes
        .map(|(name, value)| name.len() + size_of(value))
        .sum()
}

fn size_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len() / 2 + 2,
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(|digits| digits.len() / 2 + 2).sum(),
        AttributeValue::Bs(blobs) => blobs.iter().map(|blob| blob.as_ref().len()).sum(),
        AttributeValue::L(values) => {
            values.iter().map(|value| size_of(value) + 1).sum::<usize>() + 3
        }
        AttributeValue::M(values) => size(values) + values.len() + 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_documentation() {
        let flat = item([("a", text("four")), ("bb", bytes(vec![0; 10]))]);
        assert_eq!(size(&flat), 1 + 4 + 2 + 10);
        let nested = item([("l", AttributeValue::L(vec![AttributeValue::Bool(true)]))]);
        assert_eq!(size(&nested), 1 + 3 + 2);
        assert_eq!(size(&item([("n", number(1234))])), 1 + 4);
    }

    #[test]
    fn another_type_is_no_value() {
        let odd = item([("a", text("x")), ("n", number("1.5"))]);
        assert_eq!(get_number::<u64>(&odd, "a"), None);
        assert_eq!(get_number::<u64>(&odd, "n"), None);
        assert_eq!(get_bytes(&odd, "a"), None);
        assert_eq!(get_text(&odd, "a"), Some("x"));
    }
}
