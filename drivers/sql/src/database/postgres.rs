use super::backend;

backend!(sqlx::Postgres, Postgres);
