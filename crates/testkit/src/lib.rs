//! What tests stand on: a fresh database each, the URLs of real servers, and a wire that can be
//! cut. For `[dev-dependencies]` only.
//!
//! The servers come from the environment, where `scripts/services` puts them. One that is missing
//! fails the test and says how to get it; nothing is ever skipped.

mod certificates;
mod database;
mod frozen;
mod interleaving;
mod pgbouncer;
mod secured;
mod wire;

pub use certificates::Certificates;
pub use database::TestDb;
pub use frozen::{frozen, pretty};
pub use interleaving::{Explored, Failure, Interleaving, Process, Rewrite, Story};
pub use pgbouncer::PgBouncer;
pub use secured::{amqps_url, kafka_sasl_tls_url, start_postgres_tls, stop_postgres_tls};
pub use wire::Wire;

/// The URL of a PostgreSQL server on which databases may be made and dropped.
///
/// # Panics
/// If the environment names none.
pub fn postgres_url() -> String {
    required("GOZON_TEST_POSTGRES_URL")
}

/// The URL of a second PostgreSQL server.
///
/// # Panics
/// If the environment names none.
pub fn second_postgres_url() -> String {
    required("GOZON_TEST_POSTGRES_URL_2")
}

/// The URL of a RabbitMQ server.
///
/// # Panics
/// If the environment names none.
pub fn amqp_url() -> String {
    required("GOZON_TEST_AMQP_URL")
}

/// The URL of a Kafka broker.
///
/// # Panics
/// If the environment names none.
pub fn kafka_url() -> String {
    required("GOZON_TEST_KAFKA_URL")
}

fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set, and this test needs the server that it names: run `make test`, \
             or `scripts/services run -- cargo test`"
        )
    })
}

/// Makes two tests of each `async fn(TestDb)` named: one on SQLite, one on PostgreSQL.
#[macro_export]
macro_rules! on_both_databases {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::TestDb::sqlite()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::TestDb::postgres().await).await;
                }
            )+
        }
    };
}
