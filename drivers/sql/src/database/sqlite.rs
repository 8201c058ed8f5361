use super::backend;

backend!(sqlx::Sqlite, Sqlite);
