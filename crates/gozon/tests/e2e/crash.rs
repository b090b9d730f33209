//! `kill -9` at random moments under load: all that a client was told has happened, has happened
//! once, and everything comes to its end.
//!
//! A few rounds by default, and many with `GOZON_SOAK=1`. `GOZON_TEST_SEED` repeats the moments.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gozon_contract::RandomSource;
use reqwest::Method;
use serde_json::json;
use tokio::{sync::Mutex, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::harness::{self, Combo, Plan, Shop, User, soaking};

on_every_combo!(nothing_is_lost_or_done_twice);

over_grpc_too!(nothing_is_lost_or_done_twice; with kafka: nothing_is_lost_or_done_twice);

/// What clients were told.
#[derive(Default)]
struct Told {
    /// The ids of orders that a client saw accepted.
    accepted: Vec<String>,
    /// How much each user's top-ups came to, as far as users know.
    deposited: HashMap<uuid::Uuid, i64>,
    /// Orders that a client repeated, with the same key, until it was told that they are placed.
    insisted: Vec<String>,
}

async fn nothing_is_lost_or_done_twice(combo: Combo) {
    let rounds = if soaking() { 60 } else { 4 };
    let seed = std::env::var("GOZON_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomSource::system().next_u64());
    println!("GOZON_TEST_SEED={seed}");
    let random = RandomSource::seeded(seed);

    let mut shop = Plan::on(combo).start().await;
    let told = Arc::new(Mutex::new(Told::default()));
    let end = CancellationToken::new();
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let user = shop.new_user().with_balance(5_000).await;
        told.lock().await.deposited.insert(user.id, 5_000);
        clients.spawn(insist(user.clone(), client, Arc::clone(&told), end.clone()));
        clients.spawn(try_once(user, Arc::clone(&told), end.clone()));
    }

    for _ in 0..rounds {
        sleep(Duration::from_millis(50 + random.next_u64() % 700)).await;
        let victim = usize::try_from(random.next_u64()).unwrap_or(0) % shop.processes.len();
        shop.processes[victim].kill().await;
        sleep(Duration::from_millis(random.next_u64() % 200)).await;
        shop.start().await;
    }
    end.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client");
    }
    shop.kill().await;
    shop.start().await;
    check(shop, &*told.lock().await).await;
}

async fn check(shop: Shop, told: &Told) {
    let truth = shop.close().await;
    let stored: HashMap<String, &harness::truth::Order> =
        truth.orders.iter().map(|order| (order.id.to_string(), order)).collect();
    for id in &told.accepted {
        assert!(stored.contains_key(id), "order {id} was accepted and is lost");
    }
    for description in &told.insisted {
        let orders = truth.orders.iter().filter(|order| order.description == *description);
        assert_eq!(orders.count(), 1, "{description} was ordered once");
    }
    for (user, deposited) in &told.deposited {
        let entries = truth.entries.iter().filter(|entry| entry.user_id == *user);
        let stored: i64 =
            entries.filter(|entry| entry.kind == "deposit").map(|entry| entry.amount).sum();
        assert_eq!(stored, *deposited, "what user {user} paid in");
    }
    let (accepted, insisted) = (told.accepted.len(), told.insisted.len());
    println!("{} orders, {accepted} seen accepted, {insisted} insisted on", truth.orders.len());
    assert!(accepted > 0 && insisted > 0);
}

/// A client that gives each request a key and repeats it until it is answered.
async fn insist(user: User, client: usize, told: Arc<Mutex<Told>>, end: CancellationToken) {
    for number in 0.. {
        if end.is_cancelled() {
            return;
        }
        let key = format!("{client}-{number}");
        let order = json!({"amount": 1 + number % 30, "description": key});
        let id = user.insist("/orders", &key, &order, 201).await["id"].clone();
        let id = id.as_str().expect("an id").to_owned();
        user.insist("/accounts/deposit", &key, &json!({"amount": 3}), 200).await;
        let mut told = told.lock().await;
        told.accepted.push(id);
        told.insisted.push(key);
        *told.deposited.entry(user.id).or_default() += 3;
    }
}

/// A client that asks once and believes only what it is told.
async fn try_once(user: User, told: Arc<Mutex<Told>>, end: CancellationToken) {
    while !end.is_cancelled() {
        let order = json!({"amount": 7, "description": "once"});
        match harness::send(user.request(Method::POST, "/orders").json(&order)).await {
            Ok(reply) if reply.status == 201 => {
                let id = reply.ok(201)["id"].as_str().expect("an id").to_owned();
                told.lock().await.accepted.push(id);
            }
            Ok(reply) => {
                reply.trouble_on_the_way();
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
