//! One test for all databases.

/// Runs each test, an `async fn name<DB: TestDatabase>(test: Test<DB>)`, on each database.
macro_rules! on_each_database {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::support::run::<sqlx::Postgres, _>(super::$name).await;
            })+
        }
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::support::run::<sqlx::MySql, _>(super::$name).await;
            })+
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::support::run::<sqlx::Sqlite, _>(super::$name).await;
            })+
        }
    };
}
