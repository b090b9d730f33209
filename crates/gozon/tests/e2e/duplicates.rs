//! Every message more than once, in any order: the outcome is the same.

use std::{collections::HashMap, sync::Arc};

use gozon_contract::RandomSource;
use gozon_messaging::Broker;
use uuid::Uuid;

use crate::harness::{
    Combo, Plan, Shop, Truth, User, alone, at_once, broker_of, payment_requested, payment_settled,
    truth,
};

/// Ten users, each with enough for half of their fifty orders, and one without an account.
async fn place_orders(shop: &Shop) -> Vec<User> {
    let mut users = Vec::new();
    for _ in 0..10 {
        users.push(shop.new_user().with_balance(250).await);
    }
    users.push(shop.new_user());
    let orders = (0..50).flat_map(|_| &users);
    at_once(32, orders, |user| user.place(10)).await;
    users
}

fn check_outcome(truth: &Truth, users: &[User]) {
    let mut paid: HashMap<Uuid, usize> = HashMap::new();
    for order in truth.orders.iter().filter(|order| order.status == "FINISHED") {
        *paid.entry(order.user_id).or_default() += 1;
    }
    let (with_account, nobody) = (&users[..10], &users[10]);
    for user in with_account {
        assert_eq!((paid.get(&user.id), truth.balance(user.id)), (Some(&25), 0));
    }
    assert_eq!(paid.get(&nobody.id), None);
    assert_eq!(truth.orders.len(), 11 * 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_twice_and_shuffled() {
    let plan = Plan::on(Combo::SqliteMemory).broker("memory:?duplicate&shuffle");
    let shop = plan.start().await;
    let users = place_orders(&shop).await;
    shop.quiet().await;
    let metrics = shop.processes[0].metrics().await;
    let repeats = metrics.lines().filter(|line| line.starts_with("gozon_inbox_repeats_total"));
    let repeats: u64 = repeats
        .map(|line| line.rsplit(' ').next().unwrap_or("0").parse::<u64>().unwrap_or(0))
        .sum();
    assert!(repeats >= 550, "the broker was to send repeats; there were {repeats}");
    check_outcome(&shop.close().await, &users);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_on_rabbit() {
    copies_from_elsewhere(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_on_kafka() {
    copies_from_elsewhere(Combo::PostgresKafka).await;
}

/// Somebody else publishes each message again: right after it, long after it, and after the inbox
/// has forgotten it.
async fn copies_from_elsewhere(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 2, 2).start().await;
    let broker = broker_of(&shop);

    let placing = place_orders(&shop);
    let copying = async {
        for _ in 0..10 {
            let so_far = Truth::read(&shop.orders_url, &shop.payments_url).await;
            publish_again(&broker, &so_far).await;
        }
    };
    let (users, ()) = tokio::join!(placing, copying);
    let settled = shop.quiet().await;
    publish_again(&broker, &settled).await;

    truth::forget_inboxes(&shop.orders_url, &shop.payments_url).await;
    publish_again(&broker, &settled).await;
    // An order placed now queues up behind all copies for its user.
    for user in &users {
        let id = user.place(1_000).await["id"].as_str().expect("an id").to_owned();
        assert_eq!(user.settled(&id).await["status"], "CANCELLED");
    }

    let mut truth = shop.close().await;
    truth.orders.retain(|order| order.amount == 10);
    check_outcome(&truth, &users);
}

async fn publish_again(broker: &Arc<dyn Broker>, truth: &Truth) {
    let random = RandomSource::seeded(1);
    let mut messages: Vec<_> = truth.orders.iter().map(payment_requested).collect();
    messages.extend(truth.payments.iter().map(payment_settled));
    messages.sort_by_cached_key(|_| random.next_u64());
    // Deliveries that no inbox has seen: only the use cases can tell what they are.
    let system = RandomSource::system();
    let copy = |message| alone(format!("copy-{:016x}", system.next_u64()), message);
    let copies: Vec<_> = messages.into_iter().map(copy).collect();
    broker.publish(&copies).await.expect("the broker takes copies");
}
