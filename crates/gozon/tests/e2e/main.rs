//! The shop through its real door: the binary's processes, real databases, real brokers.
//!
//! Each story is told on SQLite with the broker inside the process, on PostgreSQL with RabbitMQ,
//! and on PostgreSQL with Kafka, unless it makes no sense there. `scripts/services run -- cargo
//! test -p gozon` brings the servers. What matters most is told with gRPC between the gateway and the
//! services too; with `GOZON_TEST_INSIDE=grpc` all of it is.

/// Makes a test for each combination of database and broker out of each `async fn(Combo)` named.
macro_rules! on_every_combo {
    ($($story:ident),+ $(,)?) => {
        on_every_combo!(@ sqlite_memory, SqliteMemory, $($story),+);
        on_every_combo!(@ postgres_rabbit, PostgresRabbit, $($story),+);
        on_every_combo!(@ postgres_kafka, PostgresKafka, $($story),+);
    };
    (@ $module:ident, $combo:ident, $($story:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    super::$story($crate::harness::Combo::$combo).await;
                }
            )+
        }
    };
}

/// The same with gRPC between the gateway and the services, for the stories that matter there.
macro_rules! over_grpc_too {
    ($($story:ident),+ $(,)?) => {
        on_every_combo!(@ postgres_rabbit_grpc, PostgresRabbitGrpc, $($story),+);
    };
    ($($story:ident),+; with kafka: $($kafka:ident),+ $(,)?) => {
        over_grpc_too!($($story),+);
        on_every_combo!(@ postgres_kafka_grpc, PostgresKafkaGrpc, $($kafka),+);
    };
}

mod harness;

mod audit;
mod bad_input;
mod carriers;
mod crash;
mod dead_letters;
mod duplicates;
mod faults;
mod fleet;
mod idempotency;
mod isolation;
mod lost_broadcasts;
mod outages;
mod plans;
mod race;
mod scenario;
mod servers_people_have;
mod sockets;
mod streams;
mod websocket;
