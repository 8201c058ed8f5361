//! Statements that change rows by their names.
//!
//! PostgreSQL and SQLite find each through the primary key. MariaDB and MySQL would rather look at the
//! whole table when it is small, and with their default isolation wait there for transactions that
//! have inserted rows and are not committed, and make others wait. So they are given a list to join
//! with, row by row.

use crate::database::{Dialect, Sql, Value};

/// Names of rows, as a statement takes them.
pub(crate) enum Names<'a> {
    Each(Vec<&'a str>),
    Json(String),
}

impl<'a> Names<'a> {
    pub(crate) fn new(dialect: Dialect, names: &[&'a str]) -> Self {
        match dialect {
            Dialect::MySql => Self::Json(json(names)),
            Dialect::Postgres | Dialect::Sqlite => Self::Each(padded(names)),
        }
    }

    /// Deletes these rows of a table.
    pub(crate) fn delete(&self, dialect: Dialect, table: &str) -> Sql {
        let text = match self {
            Self::Json(_) => format!("DELETE named FROM {}", joined(table)),
            Self::Each(names) => format!("DELETE FROM {table} WHERE {}", listed(names.len())),
        };
        Sql::new(dialect, &text)
    }

    /// Changes these rows of a table.
    pub(crate) fn update(&self, dialect: Dialect, table: &str, set: &str) -> Sql {
        let text = match self {
            Self::Json(_) => format!("UPDATE {} SET {set}", joined(table)),
            Self::Each(names) => format!("UPDATE {table} SET {set} WHERE {}", listed(names.len())),
        };
        Sql::new(dialect, &text)
    }

    /// The values of the statement, with those of what is set.
    pub(crate) fn values<'b>(&'b self, set: &[Value<'b>]) -> Vec<Value<'b>> {
        match self {
            Self::Json(names) => [&[Value::Text(names)], set].concat(),
            Self::Each(names) => {
                let names = names.iter().copied().map(Value::Text);
                set.iter().copied().chain(names).collect()
            }
        }
    }
}

/// Names and, up to the next power of two, the last of them again: so the database sees few different
/// statements.
pub(crate) fn padded<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let last = names.last().copied().unwrap_or_default();
    let padded = names.iter().copied().chain(std::iter::repeat(last));
    padded.take(names.len().next_power_of_two()).collect()
}

/// As many placeholders.
pub(crate) fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn listed(count: usize) -> String {
    format!("batch_id IN ({})", placeholders(count))
}

/// The names are ASCII, whatever the table's character set is. Compared as anything else, the index
/// could not be used.
fn joined(table: &str) -> String {
    format!(
        "JSON_TABLE(?, '$[*]' COLUMNS (id VARCHAR(27) PATH '$')) AS names \
         STRAIGHT_JOIN {table} AS named FORCE INDEX (PRIMARY) \
         ON named.batch_id = CONVERT(names.id USING ascii)"
    )
}

fn json(names: &[&str]) -> String {
    let mut json = String::with_capacity(names.len() * 30 + 2);
    json.push('[');
    for (index, name) in names.iter().enumerate() {
        json.push_str(if index == 0 { "\"" } else { ",\"" });
        for c in name.chars() {
            match c {
                '"' | '\\' => json.extend(['\\', c]),
                c if c.is_ascii_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => json.push(c),
            }
        }
        json.push('"');
    }
    json.push(']');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_padded() {
        assert_eq!(padded(&["a", "b", "c"]), ["a", "b", "c", "c"]);
        assert_eq!(padded(&["a", "b"]), ["a", "b"]);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(json(&["a", "b\"\\\n"]), r#"["a","b\"\\\u000a"]"#);
        assert_eq!(json(&[]), "[]");
    }

    #[test]
    fn values_stand_where_their_placeholders_do() {
        let first = |dialect| match Names::new(dialect, &["a"]).values(&[Value::Int(1)])[..] {
            [Value::Int(1), Value::Text(names)] | [Value::Text(names), Value::Int(1)] => {
                names.to_owned()
            }
            _ => panic!("two values"),
        };
        assert_eq!(first(Dialect::Sqlite), "a");
        assert_eq!(first(Dialect::MySql), "[\"a\"]");
    }
}
