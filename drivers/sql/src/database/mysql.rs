use super::backend;

backend!(sqlx::MySql, MySql);
