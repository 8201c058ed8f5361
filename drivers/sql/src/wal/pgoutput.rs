//! What `pgoutput` says of a table's changes: the few of its messages that the relay needs.

use std::collections::HashMap;

use bytes::Bytes;
use streams_core::{Error, ErrorKind, Result};

use crate::DRIVER;

/// Of the columns of the outbox, those that are looked at.
#[derive(Debug, Clone, Copy)]
struct Columns {
    batch_id: usize,
    raw_data: usize,
    write_retries: usize,
    status: usize,
}

/// A row, as it came to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) batch_id: String,
    pub(super) attempts: u32,
    /// `None` where the server leaves out what an update has not changed.
    pub(super) raw_data: Option<Bytes>,
    /// Whether it is ready to be forwarded.
    pub(super) ready: bool,
    /// It was there before.
    pub(super) update: bool,
}

/// Reads the changes of one table. Values come in binary form.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The table's number in the database.
    table: u32,
    /// By the number of the table: one that was made anew has another.
    columns: HashMap<u32, Columns>,
}

impl Decoder {
    pub(super) fn new(table: u32) -> Self {
        Self {
            table,
            columns: HashMap::new(),
        }
    }

    /// What a message says of a row of the table; `None` for anything else.
    ///
    /// # Errors
    /// `Codec` if the message cannot be read.
    pub(super) fn decode(&mut self, message: &Bytes) -> Result<Option<Change>> {
        let mut from = Cursor(message.clone());
        match from.u8()? {
            b'R' => self.relation(&mut from).map(|()| None),
            b'I' => self.row(&mut from, false),
            b'U' => self.row(&mut from, true),
            // Deletes are the relay's own; the rest concerns other tables.
            _ => Ok(None),
        }
    }

    fn relation(&mut self, from: &mut Cursor) -> Result<()> {
        let table = from.u32()?;
        if table != self.table {
            return Ok(());
        }
        from.text()?; // schema
        from.text()?; // name
        from.u8()?; // replica identity
        let count = from.u16()?;
        let mut names = HashMap::with_capacity(count.into());
        for place in 0..usize::from(count) {
            from.u8()?; // whether it is of the key
            names.insert(from.text()?, place);
            from.u32()?; // type
            from.u32()?; // modifier of the type
        }
        let place = |name: &str| {
            names.get(name).copied().ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidConfig,
                    "the publication leaves out a column of the outbox; publish all of them, or call \
                     `migrate` if the table is of an older version",
                )
                .driver(DRIVER)
                .with("column", name)
            })
        };
        let columns = Columns {
            batch_id: place("batch_id")?,
            raw_data: place("raw_data")?,
            write_retries: place("write_retries")?,
            status: place("status")?,
        };
        self.columns.insert(table, columns);
        Ok(())
    }

    fn row(&self, from: &mut Cursor, update: bool) -> Result<Option<Change>> {
        let table = from.u32()?;
        if table != self.table {
            return Ok(None);
        }
        let columns = self.columns.get(&table).ok_or_else(malformed)?;
        let mut kind = from.u8()?;
        if matches!(kind, b'K' | b'O') {
            values(from)?; // the old row, or its key
            kind = from.u8()?;
        }
        if kind != b'N' {
            return Err(malformed());
        }
        let mut values = values(from)?;
        let mut value = |place: usize| values.get_mut(place).map(std::mem::take);
        let batch_id = value(columns.batch_id).and_then(Field::bytes);
        let batch_id = batch_id.ok_or_else(malformed)?;
        let batch_id = std::str::from_utf8(&batch_id).map_err(|_| malformed())?;
        let status = value(columns.status).and_then(Field::bytes);
        let attempts = value(columns.write_retries).and_then(Field::bytes);
        Ok(Some(Change {
            batch_id: batch_id.to_owned(),
            // NULL in tables that the Go library made.
            attempts: match attempts {
                Some(attempts) => u32::try_from(int(&attempts)?).unwrap_or_default(),
                None => 0,
            },
            raw_data: value(columns.raw_data).and_then(Field::bytes),
            ready: int(&status.ok_or_else(malformed)?)? == 0,
            update,
        }))
    }
}

/// A column of a row.
#[derive(Debug, Default)]
enum Field {
    #[default]
    Absent,
    Binary(Bytes),
}

impl Field {
    fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Binary(bytes) => Some(bytes),
            Self::Absent => None,
        }
    }
}

fn values(from: &mut Cursor) -> Result<Vec<Field>> {
    let count = from.u16()?;
    let mut values = Vec::with_capacity(count.into());
    for _ in 0..count {
        values.push(match from.u8()? {
            // Null; or not changed, and left out because it is large.
            b'n' | b'u' => Field::Absent,
            // Text is for types without a binary form. None of the columns of ours is of such a type.
            b'b' | b't' => {
                let length = usize::try_from(from.u32()?).map_err(|_| malformed())?;
                Field::Binary(from.take(length)?)
            }
            _ => return Err(malformed()),
        });
    }
    Ok(values)
}

/// A whole number of 2, 4 or 8 bytes.
fn int(bytes: &[u8]) -> Result<i64> {
    match *bytes {
        [a, b] => Ok(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Ok(i32::from_be_bytes([a, b, c, d]).into()),
        _ => match <[u8; 8]>::try_from(bytes) {
            Ok(bytes) => Ok(i64::from_be_bytes(bytes)),
            Err(_) => Err(malformed()),
        },
    }
}

fn malformed() -> Error {
    Error::new(
        ErrorKind::Codec,
        "the server sent a change in a form that is not known here; see that it is PostgreSQL 14 or \
         newer",
    )
    .operation("decode")
    .driver(DRIVER)
}

/// What is left of a message.
struct Cursor(Bytes);

impl Cursor {
    fn take(&mut self, count: usize) -> Result<Bytes> {
        if self.0.len() < count {
            return Err(malformed());
        }
        Ok(self.0.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        <[u8; N]>::try_from(&*self.take(N)?).map_err(|_| malformed())
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Text that ends with a zero.
    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.take(end.ok_or_else(malformed)?)?;
        self.u8()?;
        String::from_utf8(text.to_vec()).map_err(|_| malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: u32 = 7;

    fn relation(table: u32, columns: &[&str]) -> Bytes {
        let mut message = vec![b'R'];
        message.extend(table.to_be_bytes());
        message.extend(b"public\0streams_egress\0d");
        message.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for column in columns {
            message.push(0);
            message.extend(column.as_bytes());
            message.extend([0; 9]);
        }
        message.into()
    }

    fn row(kind: u8, table: u32, before: &[u8], values: &[Option<&[u8]>]) -> Bytes {
        let mut message = vec![kind];
        message.extend(table.to_be_bytes());
        message.extend(before);
        message.push(b'N');
        message.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                None => message.push(b'u'),
                Some(value) => {
                    message.push(b'b');
                    message.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                    message.extend(*value);
                }
            }
        }
        message.into()
    }

    /// In another order than that of the table: names count.
    const COLUMNS: [&str; 5] = ["status", "extra", "raw_data", "write_retries", "batch_id"];

    fn decoder() -> Decoder {
        let mut decoder = Decoder::new(TABLE);
        let relation = relation(TABLE, &COLUMNS);
        assert_eq!(decoder.decode(&relation).unwrap(), None);
        decoder
    }

    #[test]
    fn inserts_and_updates_are_read() {
        let mut decoder = decoder();
        let values: [Option<&[u8]>; 5] = [
            Some(&[0, 0]),
            None,
            Some(b"raw"),
            Some(&[0, 0, 0, 2]),
            Some(b"id"),
        ];
        let mut expected = Change {
            batch_id: "id".to_owned(),
            attempts: 2,
            raw_data: Some(Bytes::from_static(b"raw")),
            ready: true,
            update: false,
        };
        let insert = row(b'I', TABLE, b"", &values);
        assert_eq!(decoder.decode(&insert).unwrap().as_ref(), Some(&expected));

        // With the old key before it, large data left out, and deferred.
        let mut update = values;
        update[0] = Some(&[0, 3]);
        update[2] = None;
        let key = [b'K', 0, 1, b'b', 0, 0, 0, 2, b'i', b'd'];
        let update = row(b'U', TABLE, &key, &update);
        (expected.raw_data, expected.ready, expected.update) = (None, false, true);
        assert_eq!(decoder.decode(&update).unwrap(), Some(expected));
    }

    #[test]
    fn other_tables_and_deletes_are_left_out() {
        let mut decoder = decoder();
        let other = relation(TABLE + 1, &["a"]);
        assert_eq!(decoder.decode(&other).unwrap(), None);
        let other = row(b'I', TABLE + 1, b"", &[None]);
        assert_eq!(decoder.decode(&other).unwrap(), None);
        let delete = Bytes::from_static(b"D\0\0\0\x07K");
        assert_eq!(decoder.decode(&delete).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let mut decoder = decoder();
        let insert = row(b'I', TABLE, b"", &[Some(b"\0\0".as_slice()); 5]);
        for length in 0..insert.len() {
            assert!(decoder.decode(&insert.slice(..length)).is_err(), "{length}");
        }
        let error = decoder.decode(&relation(TABLE, &["batch_id"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let mut unknown = Decoder::new(TABLE);
        assert!(unknown.decode(&insert).is_err(), "no relation before it");
    }
}
