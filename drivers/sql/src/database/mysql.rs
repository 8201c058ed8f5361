use super::{backend, json};

backend!(sqlx::MySql, MySql, json);
