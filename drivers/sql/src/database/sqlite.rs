use super::{backend, json};

backend!(sqlx::Sqlite, Sqlite, json);
