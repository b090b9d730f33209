//! Processes that stand still for a while and go on, as on a frozen machine.

use std::time::Duration;

use tokio::time::sleep;

use super::id_of;
use crate::harness::{Combo, Plan, Watcher, at_once, eventually};

/// Longer than the lease on a row of the outbox, and than a consumer's session on Kafka.
const PAUSE: Duration = Duration::from_secs(8);
/// Fewer than a snapshot has, so that it shows all of them.
const ORDERS: usize = 90;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_processes_do_nothing_twice_on_rabbit() {
    paused_processes_do_nothing_twice(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_processes_do_nothing_twice_on_kafka() {
    paused_processes_do_nothing_twice(Combo::PostgresKafka).await;
}

async fn paused_processes_do_nothing_twice(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 2, 2).start().await;
    let user = shop.new_user().with_balance(100_000).await;
    let watchers =
        [Watcher::start(&user.at(&shop.door_of("orders-1"))).await, Watcher::start(&user).await];
    // They stop in the middle of their work.
    let paused = ["orders-1", "payments-1"];
    let here = user.at(&shop.door_of("orders-2"));
    let at_paused = user.at(&shop.door_of("orders-1"));
    let ordering = at_once(16, 0..ORDERS, |n| {
        let user = if n % 2 == 0 { &at_paused } else { &here };
        user.place(10)
    });
    let pausing = async {
        sleep(Duration::from_millis(150)).await;
        for name in paused {
            shop.process(name).pause();
        }
        sleep(PAUSE).await;
        for name in paused {
            shop.process(name).resume();
        }
    };
    let (placed, ()) = tokio::join!(ordering, pausing);
    for order in &placed {
        assert_eq!(user.settled(&id_of(order)).await["status"], "FINISHED");
    }
    let truth = shop.quiet().await;
    for watcher in watchers {
        eventually("each socket's last word is the truth", async || {
            watcher.seen().await.agrees(&truth, &user).then_some(())
        })
        .await;
        watcher.stop().await;
    }
    let truth = shop.close().await;
    assert_eq!((truth.orders.len(), truth.balance(user.id)), (ORDERS, 99_100));
}
