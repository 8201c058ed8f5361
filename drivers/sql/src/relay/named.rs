//! Statements that change rows by their names.
//!
//! PostgreSQL and SQLite find each through the primary key. MariaDB and MySQL would rather look at the
//! whole table when it is small, and with their default isolation wait there for transactions that
//! have inserted rows and are not committed, and make others wait. So they are given a list to join
//! with, row by row.

use crate::database::{Dialect, Sql, Value};

/// Deletes rows of a table. Its value is the [list](Value::List) of their names.
pub(crate) fn delete(dialect: Dialect, table: &str) -> Sql {
    let text = match dialect {
        Dialect::MySql => format!("DELETE named FROM {}", joined(table)),
        _ => format!("DELETE FROM {table} WHERE {}", listed(dialect)),
    };
    Sql::new(dialect, &text)
}

/// Changes rows of a table. Its values are those of [`values`].
pub(crate) fn update(dialect: Dialect, table: &str, set: &str) -> Sql {
    let text = match dialect {
        Dialect::MySql => format!("UPDATE {} SET {set}", joined(table)),
        _ => format!("UPDATE {table} SET {set} WHERE {}", listed(dialect)),
    };
    Sql::new(dialect, &text)
}

/// The values of a statement that changes rows: their names, and those of what is set.
pub(crate) fn values<'a>(
    dialect: Dialect,
    names: &'a [&'a str],
    set: &[Value<'a>],
) -> Vec<Value<'a>> {
    let names = &[Value::List(names)];
    match dialect {
        Dialect::MySql => [names, set].concat(),
        Dialect::Postgres | Dialect::Sqlite => [set, names].concat(),
    }
}

/// What stands in the brackets of `IN` in a statement that reads, with its values.
pub(crate) fn list<'a>(dialect: Dialect, names: &'a [&'a str]) -> (String, Vec<Value<'a>>) {
    let text = match dialect {
        // Looked up in a table of hashes, where an array would be compared one by one.
        Dialect::Postgres => "SELECT UNNEST(?)",
        Dialect::Sqlite => "SELECT value FROM json_each(?)",
        Dialect::MySql => {
            let names = padded(names);
            let places = vec!["?"; names.len()].join(", ");
            return (places, names.into_iter().map(Value::Text).collect());
        }
    };
    (text.to_owned(), vec![Value::List(names)])
}

/// Names and, up to the next power of two, the last of them again: so the database sees few different
/// statements.
fn padded<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let last = names.last().copied().unwrap_or_default();
    let padded = names.iter().copied().chain(std::iter::repeat(last));
    padded.take(names.len().next_power_of_two()).collect()
}

fn listed(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "batch_id = ANY(?)",
        Dialect::MySql | Dialect::Sqlite => "batch_id IN (SELECT value FROM json_each(?))",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_padded() {
        assert_eq!(padded(&["a", "b", "c"]), ["a", "b", "c", "c"]);
        assert_eq!(padded(&["a", "b"]), ["a", "b"]);
    }

    #[test]
    fn values_stand_where_their_placeholders_do() {
        let names_first = |dialect| match values(dialect, &["a"], &[Value::Int(1)])[..] {
            [Value::Int(1), Value::List(&["a"])] => false,
            [Value::List(&["a"]), Value::Int(1)] => true,
            _ => panic!("two values"),
        };
        for dialect in [Dialect::Postgres, Dialect::MySql, Dialect::Sqlite] {
            let update = update(dialect, "t", "attempts = ?").text().0;
            let (before, _) = update.split_once("attempts = ").unwrap();
            let named = before.contains("JSON_TABLE");
            assert_eq!(named, names_first(dialect), "{update}");
        }
    }
}
