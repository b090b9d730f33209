//! Broadcasts are lost, by a pause or in the broker, and sockets stay open: each ends with the
//! truth.

use std::time::Duration;

use gozon_contract::ORDER_CHANGED;
use lapin::{Connection, ConnectionProperties, options::ExchangeDeleteOptions};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};
use tokio::time::sleep;

use crate::harness::{Combo, Door, Plan, Shop, User, Watcher, at_once, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_catch_up_after_a_pause_with_rabbit() {
    pause(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_catch_up_after_a_pause_with_kafka() {
    pause(Combo::PostgresKafka).await;
}

/// Orders settled while an instance is paused: more than a page of catching up has, so that a socket
/// that is told of all of them was told page by page.
const ORDERS: usize = 250;
/// How much longer the pause is: an instance that counts from its end would miss the results.
const AFTERWARDS: Duration = Duration::from_secs(40);

async fn pause(combo: Combo) {
    let shop = two_instances(combo).await;
    let [paused, other] = instances(&shop);
    let user = shop.new_user().with_balance(1_250).await;
    let watchers =
        [Watcher::start(&user.at(&paused)).await, Watcher::start(&user.at(&other)).await];

    shop.process("orders-1").pause();
    let user = user.at(&other);
    at_once(16, 0..ORDERS, |_| user.place(10)).await;
    // Results that were on their way to the paused instance go to the other one in the end.
    eventually("all are settled", async || {
        let new = user.get("/orders?status=NEW&limit=1").await.ok(200);
        new["items"].as_array().expect("items").is_empty().then_some(())
    })
    .await;
    sleep(AFTERWARDS).await;
    shop.process("orders-1").resume();

    all_see_the_truth(&shop, watchers).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_attach_anew_when_the_exchange_was_deleted() {
    let shop = two_instances(Combo::PostgresRabbit).await;
    let (user, watchers) = watched_on_both(&shop).await;

    let (url, topic) = broadcast(&shop);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await;
    let channel = connection.expect("a connection").create_channel().await.expect("a channel");
    channel
        .exchange_delete(topic.as_str().into(), ExchangeDeleteOptions::default())
        .await
        .expect("the exchange is deleted");

    at_once(16, 0..40, |_| user.place(10)).await;
    all_see_the_truth(&shop, watchers).await;
    // Not by catching up alone: what comes from now on is received.
    let (user, watchers) = watched_on_both(&shop).await;
    at_once(16, 0..40, |_| user.place(10)).await;
    all_see_the_truth(&shop, watchers).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_read_partitions_that_are_added() {
    let shop = two_instances(Combo::PostgresKafka).await;
    let (user, mut watchers) = watched_on_both(&shop).await;
    // Users whose orders go to different partitions.
    let mut users = vec![user];
    for _ in 0..7 {
        let (user, more) = watched_on_both(&shop).await;
        users.push(user);
        watchers.extend(more);
    }

    let (url, topic) = broadcast(&shop);
    let servers = url.trim_start_matches("kafka://").to_owned();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().expect("a client");
    let made = admin
        .create_partitions(&[NewPartitions::new(&topic, 4)], &AdminOptions::new())
        .await
        .expect("an answer");
    assert!(made.iter().all(Result::is_ok), "{made:?}");

    // Producers find the new partitions within half a minute.
    for _ in 0..20 {
        at_once(16, &users, |user| user.place(10)).await;
        sleep(Duration::from_secs(2)).await;
    }
    all_see_the_truth(&shop, watchers).await;
    shop.close().await;
}

async fn two_instances(combo: Combo) -> Shop {
    Plan::on(combo).instances(1, 2, 1).start().await
}

/// The orders instances themselves, without the gateway.
fn instances(shop: &Shop) -> [Door; 2] {
    ["orders-1", "orders-2"].map(|name| Door::new(shop.process(name).url()))
}

async fn watched_on_both(shop: &Shop) -> (User, Vec<Watcher>) {
    let user = shop.new_user().with_balance(100).await;
    let mut watchers = Vec::new();
    for door in instances(shop) {
        watchers.push(Watcher::start(&user.at(&door)).await);
    }
    (user, watchers)
}

/// The broker's URL, and the broadcast topic's name there.
fn broadcast(shop: &Shop) -> (String, String) {
    let (url, prefix) = shop.broker_url.split_once("?prefix=").expect("a prefix");
    (url.to_owned(), format!("{prefix}{}", ORDER_CHANGED.name))
}

/// Waits until nothing is under way and every watcher sees what is stored, on its first socket.
async fn all_see_the_truth(shop: &Shop, watchers: impl IntoIterator<Item = Watcher>) {
    let truth = shop.quiet().await;
    for watcher in watchers {
        eventually("a watcher sees what is stored", async || {
            watcher.seen().await.agrees(&truth, &watcher.user).then_some(())
        })
        .await;
        assert_eq!(watcher.stop().await, 1, "a socket was cut");
    }
}
