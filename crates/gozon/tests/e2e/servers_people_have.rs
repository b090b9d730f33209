//! The shop on servers as people have them: with TLS, behind a pooler, several of them; and on a
//! broker that refuses it.

use gozon_testkit::{
    Certificates, PgBouncer, TestDb, amqp_url, amqps_url, kafka_sasl_tls_url, kafka_url,
    second_postgres_url, start_postgres_tls, stop_postgres_tls,
};
use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use serde_json::json;
use tokio::sync::Mutex;

use crate::harness::{Combo, Plan, Postgres, Shop, at_once, eventually, send};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";
/// Held by the one story that has the second PostgreSQL server speak TLS.
static TLS: Mutex<()> = Mutex::const_new(());

/// A name for topics that no other test has.
fn unique_prefix(shop: &TestDb) -> String {
    shop.url().split(['/', '?']).nth(3).expect("a database").to_owned()
}

/// Orders are paid for as far as the balance goes, and everything adds up in the end.
async fn sells(shop: Shop) {
    let user = shop.new_user().with_balance(100).await;
    at_once(8, 0..20, |_| user.place(10)).await;
    let truth = shop.close().await;
    assert_eq!((truth.with_status("FINISHED"), truth.with_status("CANCELLED")), (10, 10));
    assert_eq!(truth.balance(user.id), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_runs_over_tls_with_rabbit() {
    over_tls(Combo::PostgresRabbit, &amqps_url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_runs_over_tls_with_kafka() {
    over_tls(Combo::PostgresKafka, &kafka_sasl_tls_url()).await;
}

async fn over_tls(combo: Combo, broker: &str) {
    let _alone = TLS.lock().await;
    let (server, certificates) = (second_postgres_url(), Certificates::make());
    start_postgres_tls(&server, &certificates).await;
    let (orders, payments) =
        (TestDb::postgres_at(&server).await, TestDb::postgres_at(&server).await);
    let verified = |db: &TestDb| {
        let (place, _) = db.url().split_once('?').expect("parameters");
        let place = place.replacen("127.0.0.1", "localhost", 1);
        format!("{place}?sslmode=verify-full&sslrootcert={}", certificates.authority.display())
    };
    let broker = format!("{broker}&prefix={}.", unique_prefix(&orders));
    let plan = Plan::on(combo).databases(verified(&orders), verified(&payments)).broker(broker);
    let shop = plan.start().await;
    for db in [&orders, &payments] {
        let mut beside = Postgres::beside(db.url()).await;
        let sessions = "select count(*) from pg_stat_activity join pg_stat_ssl using (pid)
                        where datname = '{database}'";
        assert!(beside.number(sessions).await > 0);
        assert_eq!(beside.number(&format!("{sessions} and not ssl")).await, 0);
        beside.close().await;
    }
    sells(shop).await;
    drop((orders, payments));
    stop_postgres_tls(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_runs_behind_a_transaction_pooler() {
    let (orders, payments) = (TestDb::postgres().await, TestDb::postgres().await);
    let poolers = [PgBouncer::before(orders.url()).await, PgBouncer::before(payments.url()).await];
    let pooled =
        |pooler: &PgBouncer, db: &TestDb| format!("{}&pooler=transaction", pooler.url(db.url()));
    let (orders_url, payments_url) = (pooled(&poolers[0], &orders), pooled(&poolers[1], &payments));
    let plan = Plan::on(Combo::PostgresRabbit).databases(orders_url, payments_url);
    sells(plan.instances(1, 2, 2).start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_finds_the_server_that_is_there() {
    let (orders, payments) = (TestDb::postgres().await, TestDb::postgres().await);
    let several = |db: &TestDb| {
        let url = db.url().replacen('@', &format!("@{NOBODY},"), 1);
        format!("{url}&target_session_attrs=read-write")
    };
    let plan = Plan::on(Combo::PostgresKafka).databases(several(&orders), several(&payments));
    let broker = kafka_url().replacen("kafka://", &format!("kafka://{NOBODY},"), 1);
    let broker = format!("{broker}?prefix={}.", unique_prefix(&orders));
    sells(plan.broker(broker).start().await).await;
}

/// A shop on this broker does not get ready; both `/readyz` and the log say what to do.
async fn is_told_by(broker: &str, advice: &str) {
    let mut shop = Plan::on(Combo::SqliteMemory).broker(broker).prepare().await;
    shop.processes[0].start();
    let url = format!("{}/readyz", shop.processes[0].url());
    let asked = reqwest::Client::new();
    eventually(advice, async || {
        let reply = send(asked.get(&url)).await.ok()?;
        // The advice names the broker's tools, which no other answer may.
        let problem = reply.json();
        assert_eq!((reply.status, &problem["code"]), (503, &json!("not_ready")), "{}", reply.text);
        let errors = problem["errors"].as_array()?;
        let said = |part: &str| {
            errors.iter().any(|error| {
                let detail = error["detail"].as_str().unwrap_or_default();
                error["field"] == part && detail.contains(advice)
            })
        };
        let told = said("orders.broker") && said("payments.broker");
        (told && shop.processes[0].log().contains(advice)).then_some(())
    })
    .await;
    shop.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_virtual_host_is_told() {
    let url = amqp_url();
    let (server, _) = url.rsplit_once('/').expect("a virtual host");
    is_told_by(&format!("{server}/nowhere"), "rabbitmqctl add_vhost VHOST").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_type_is_told() {
    let db = TestDb::postgres().await;
    let prefix = unique_prefix(&db);
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await;
    let channel = connection.expect("RabbitMQ").create_channel().await.expect("a channel");
    let queues = ["payment.requested", "payment.settled"].map(|topic| format!("{prefix}.{topic}"));
    for queue in &queues {
        let classic = QueueDeclareOptions::durable();
        let made = channel.queue_declare(queue.as_str().into(), classic, FieldTable::default());
        made.await.expect("a classic queue");
    }
    is_told_by(&format!("{}?prefix={prefix}.", amqp_url()), "something else has made a queue")
        .await;
    for queue in &queues {
        let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
        deleted.await.expect("a queue to delete");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_on_kafka_are_told() {
    let url = kafka_sasl_tls_url().replacen("gozon:", "guest:", 1);
    let url = url.replacen("SCRAM-SHA-512", "PLAIN", 1);
    is_told_by(&url, "kafka-acls.sh --add --allow-principal User:NAME").await;
}
