//! RabbitMQ holds publishers back while it is short of memory.

use super::id_of;
use crate::harness::{Combo, Servers, at_once, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_held_back_keep_one_connection() {
    let servers = Servers::of(Combo::PostgresRabbit).await;
    let shop = servers.plan().await.start().await;
    let user = shop.new_user().with_balance(10_000).await;
    let first = user.place(10).await;
    user.settled(&id_of(&first)).await;
    let connections = async || {
        let listed = servers.rabbitmqctl(&["list_connections", "client_properties"]).await;
        listed.matches("gozon, publishing").count()
    };
    let before = connections().await;
    let files = shop.process("orders-1").open_files();

    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.0001"]).await;
    let placed = at_once(4, 0..8, |_| user.place(10)).await;
    eventually("it has tried again and again", async || {
        let log = shop.process("orders-1").log();
        (log.matches("can't publish").count() >= 5).then_some(())
    })
    .await;
    assert!(connections().await <= before, "connections pile up");
    assert!(shop.process("orders-1").open_files() <= files + 10, "connections leak");
    let more = at_once(4, 0..8, |_| user.place(10)).await;

    servers.rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    for order in placed.iter().chain(&more) {
        assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED");
    }
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (17, 10_000 - 170));
}
