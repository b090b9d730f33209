//! Brokers that lose what they have, or are somebody else's mess.

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::{id_of, until_sent};
use crate::harness::{Combo, Plan, Servers, Shop, Truth, User, at_once, eventually};

/// A shop that asks again soon, and its user.
async fn shop_that_asks_again(plan: Plan) -> (Shop, User) {
    let shop = plan.setting("GOZON_RESEND_AFTER", "2").start().await;
    let user = shop.new_user().with_balance(10_000).await;
    (shop, user)
}

/// The name of a topic's queue on RabbitMQ, or of the topic on Kafka.
fn queue(shop: &Shop, topic: &str) -> String {
    let (_, prefix) = shop.broker_url.split_once("prefix=").expect("a prefix");
    format!("{prefix}{topic}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purged_queues_heal_by_themselves() {
    let servers = Servers::of(Combo::PostgresRabbit).await;
    let (mut shop, user) = shop_that_asks_again(servers.plan().await).await;

    // Requests are lost.
    shop.process_mut("payments-1").kill().await;
    let lost = at_once(4, 0..8, |_| user.place(10)).await;
    until_sent(&shop, "outbox of orders").await;
    servers.rabbitmqctl(&["purge_queue", &queue(&shop, "payment.requested")]).await;
    shop.start().await;
    for order in &lost {
        assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED");
    }

    // Results are lost: what is paid already is answered again. Orders stay away from when the
    // request is sent until the result is lost.
    shop.process_mut("payments-1").kill().await;
    let unanswered = user.place(10).await;
    until_sent(&shop, "outbox of orders").await;
    shop.process_mut("orders-1").kill().await;
    shop.process_mut("payments-1").start();
    eventually("it is paid", async || {
        let truth = Truth::read(&shop.orders_url, &shop.payments_url).await;
        (truth.payments.len() == 9).then_some(())
    })
    .await;
    until_sent(&shop, "outbox of payments").await;
    servers.rabbitmqctl(&["purge_queue", &queue(&shop, "payment.settled")]).await;
    shop.start().await;
    assert_eq!(user.settled(&id_of(&unanswered)).await["status"], "FINISHED");

    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (9, 10_000 - 90));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_queues_are_made_again() {
    let servers = Servers::of(Combo::PostgresRabbit).await;
    let (shop, user) = shop_that_asks_again(servers.plan().await).await;
    for topic in ["payment.requested", "payment.settled"] {
        let before = at_once(4, 0..8, |_| user.place(10)).await;
        servers.rabbitmqctl(&["delete_queue", &queue(&shop, topic)]).await;
        let after = at_once(4, 0..8, |_| user.place(10)).await;
        for order in before.iter().chain(&after) {
            assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED");
        }
    }
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (32, 10_000 - 320));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_topics_are_made_again() {
    let (shop, user) = shop_that_asks_again(Plan::on(Combo::PostgresKafka)).await;
    for topic in ["payment.requested", "payment.settled", "order.changed"] {
        let before = at_once(4, 0..8, |_| user.place(10)).await;
        delete_topic(&shop, topic).await;
        let after = at_once(4, 0..8, |_| user.place(10)).await;
        for order in before.iter().chain(&after) {
            assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED", "{topic}");
        }
    }
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (48, 10_000 - 480));
}

/// Deletes a topic, with all that is in it.
async fn delete_topic(shop: &Shop, topic: &str) {
    let (url, _) = shop.broker_url.split_once('?').expect("parameters");
    let servers = url.trim_start_matches("kafka://");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().expect("a client");
    let name = queue(shop, topic);
    let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await.expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}
