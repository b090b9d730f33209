//! Real servers that speak TLS.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::sleep;

use crate::{Certificates, amqp_url, kafka_url, required};

/// How much further the port is on which `scripts/services` has RabbitMQ speak TLS.
const RABBITMQ_TLS: u16 = 5;
/// The same for Kafka's SASL over TLS.
const KAFKA_SASL_TLS: u16 = 3;

/// The URL of the RabbitMQ server by its name, with TLS, and with the authority that it trusts.
///
/// # Panics
/// If the environment names no server of `scripts/services`.
pub fn amqps_url() -> String {
    let url = amqp_url().replacen("amqp:", "amqps:", 1);
    format!("{}?cacertfile={}", by_name(&url, RABBITMQ_TLS), authority("rabbitmq"))
}

/// The URL of the Kafka broker by its name, with TLS, for a user who may do everything.
///
/// # Panics
/// If the environment names no server of `scripts/services`.
pub fn kafka_sasl_tls_url() -> String {
    let url = kafka_url().replacen("kafka://", "kafka://gozon:secret%20sauce@", 1);
    format!(
        "{}?security.protocol=sasl_ssl&sasl.mechanism=SCRAM-SHA-512&ssl.ca.location={}",
        by_name(&url, KAFKA_SASL_TLS),
        authority("kafka")
    )
}

/// The certificate that signed that of a server of `scripts/services`.
fn authority(server: &str) -> String {
    format!("{}/{server}/authority.pem", required("GOZON_SERVICES_DIR"))
}

/// The URL with the host that is in the certificates, and a port that is `further` on.
fn by_name(url: &str, further: u16) -> String {
    let port = url.split_once("127.0.0.1:").map_or("", |(_, rest)| rest);
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let number: u16 = port.parse().expect("a URL with a port of 127.0.0.1");
    url.replacen(&format!("127.0.0.1:{port}"), &format!("localhost:{}", number + further), 1)
}

/// Has the PostgreSQL server at `url` speak TLS with this certificate, too, until
/// [`stop_postgres_tls`].
///
/// # Panics
/// If the server can't.
pub async fn start_postgres_tls(url: &str, certificates: &Certificates) {
    run(url, &server_file("gozon-test.pem", &certificates.certificate)).await;
    run(url, &server_file("gozon-test.key", &certificates.key)).await;
    run(url, "alter system set ssl_cert_file = 'gozon-test.pem'").await;
    run(url, "alter system set ssl_key_file = 'gozon-test.key'").await;
    run(url, "alter system set ssl = on").await;
    run(url, "select pg_reload_conf()").await;
    // It takes up its new settings a moment later.
    let required = format!("{url}?sslmode=require");
    while PgConnection::connect(&required).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// Has the PostgreSQL server at `url` speak plain text only.
///
/// # Panics
/// If the server can't.
pub async fn stop_postgres_tls(url: &str) {
    run(url, "alter system reset ssl").await;
    run(url, "select pg_reload_conf()").await;
}

/// A statement that writes a file of the server, as the user that it runs as.
fn server_file(name: &str, text: &str) -> String {
    let lines = text.lines().collect::<Vec<_>>().join("','");
    format!("copy (select unnest(array['{lines}'])) to program 'umask 077; cat > {name}'")
}

async fn run(url: &str, sql: &str) {
    let mut server = PgConnection::connect(url).await.expect("the PostgreSQL server answers");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut server).await.expect(sql);
    let _ = server.close().await;
}
