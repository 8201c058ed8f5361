use super::backend;

backend!(sqlx::Postgres, Postgres, std::convert::identity);
