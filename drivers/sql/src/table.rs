//! Names of tables.

use std::fmt;

use streams_core::{Error, ErrorKind, Result};

use crate::DRIVER;
use crate::database::Dialect;

/// Most bytes of a name: what PostgreSQL takes, which would cut off the rest silently. A few are left
/// for the endings of indexes.
const LONGEST: usize = 48;

/// The name of a table, with its schema if it is not in the default one. It holds letters, digits and
/// underscores alone, so it can do no harm in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// # Errors
    /// `InvalidConfig` if it is none.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        for part in schema.into_iter().chain([name]) {
            check(part).map_err(|problem| {
                Error::new(
                    ErrorKind::InvalidConfig,
                    format!(
                        "the name of a table {problem}; take letters, digits and underscores, not \
                         beginning with a digit, at most {LONGEST}, as in `streams_egress` or \
                         `events.streams_egress`"
                    ),
                )
                .driver(DRIVER)
                .with("table", format_args!("{text:?}"))
            })?;
        }
        Ok(Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// A table of this database.
    ///
    /// # Errors
    /// As [`new`](Self::new), and for a schema where there are none.
    pub(crate) fn of(text: &str, dialect: Dialect) -> Result<Self> {
        let table = Self::new(text)?;
        if dialect == Dialect::Sqlite && table.schema.is_some() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "SQLite has no schemas; leave out the dot and what is before it",
            )
            .driver(DRIVER)
            .with("table", &table));
        }
        Ok(table)
    }

    /// As it stands in a statement.
    pub(crate) fn quoted(&self, dialect: Dialect) -> String {
        let name = dialect.quote(&self.name);
        match &self.schema {
            Some(schema) => format!("{}.{name}", dialect.quote(schema)),
            None => name,
        }
    }

    /// Another table, in the same schema.
    pub(crate) fn sibling(&self, name: &str) -> Self {
        Self {
            schema: self.schema.clone(),
            name: name.to_owned(),
        }
    }

    /// Another table, named after this one.
    pub(crate) fn with_ending(&self, ending: &str) -> Self {
        self.sibling(&format!("{}{ending}", self.name))
    }

    /// The schema, if it is not the default one.
    pub(crate) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Without the schema: for the names of indexes and channels.
    pub(crate) fn base(&self) -> &str {
        &self.name
    }
}

fn check(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        return Err("is empty");
    }
    if part.len() > LONGEST {
        return Err("is too long");
    }
    if part.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("begins with a digit");
    }
    if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err("has characters that are not allowed");
    }
    Ok(())
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let name = TableName::new("events.streams_egress").unwrap();
        assert_eq!(
            name.quoted(Dialect::Postgres),
            "\"events\".\"streams_egress\""
        );
        assert_eq!(name.quoted(Dialect::MySql), "`events`.`streams_egress`");
        assert_eq!(name.to_string(), "events.streams_egress");
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            ".",
            "a.",
            ".a",
            "a.b.c",
            "1a",
            "a b",
            "a\"; DROP TABLE users; --",
            "a`b",
            "tablé",
            "a\0b",
            &"a".repeat(49),
        ] {
            let error = TableName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?}");
        }
    }
}
