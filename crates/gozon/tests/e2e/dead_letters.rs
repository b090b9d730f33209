//! Messages that were given up on, and what a person does about them.

use gozon_contract::PAYMENT_REQUESTED;
use gozon_messaging::{Batch, Message};
use gozon_store::Db;
use serde_json::{Value, json};

use crate::harness::{Combo, Shop, User, broker_of, eventually, gozon, payment_requested, truth};

on_every_combo!(late_retry_debits_nothing_twice);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_on_rabbit() {
    poison_is_set_aside(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_on_kafka() {
    poison_is_set_aside(Combo::PostgresKafka).await;
}

/// `gozon dead-letters …`: what it says, and whether it succeeded.
async fn dead_letters(shop: &Shop, args: &[&str]) -> (String, bool) {
    let settings = [
        ("GOZON_ORDERS_DATABASE_URL", shop.orders_url.clone()),
        ("GOZON_PAYMENTS_DATABASE_URL", shop.payments_url.clone()),
    ];
    let done = gozon(&[&["dead-letters"], args].concat(), &settings).await;
    let said = [done.stdout, done.stderr].concat();
    (String::from_utf8(said).expect("a text"), done.status.success())
}

async fn listed(shop: &Shop) -> Vec<Value> {
    let (said, done) = dead_letters(shop, &["list", "--json"]).await;
    assert!(done, "{said}");
    let list: Value = serde_json::from_str(&said).expect("JSON");
    list["items"].as_array().expect("items").clone()
}

async fn settle_one(user: &User) -> String {
    let id = user.place(10).await["id"].as_str().expect("an id").to_owned();
    assert_eq!(user.settled(&id).await["status"], "FINISHED");
    id
}

async fn poison_is_set_aside(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(100).await;
    let poison = |id: &str, body: &[u8]| Batch {
        id: id.to_owned(),
        topic: PAYMENT_REQUESTED.name.to_owned(),
        body: body.into(),
    };
    let own = format!(r#"{{"id": "no-event", "partitionkey": "{}", "order_id": 1}}"#, user.id);
    let batches = [
        poison("no-json", b"{"),
        poison("no-text", b"\xff\x00\xfe"),
        poison("nothing", b""),
        poison("no-event", own.as_bytes()),
    ];
    broker_of(&shop).publish(&batches).await.expect("the broker takes anything");

    // What comes after it for the same user is not held up.
    settle_one(&user).await;
    let letters = eventually("four messages were given up on", async || {
        Some(listed(&shop).await).filter(|letters| letters.len() == 4)
    })
    .await;
    for letter in &letters {
        assert_eq!((&letter["database"], &letter["origin"]), (&json!("payments"), &json!("inbox")));
        assert!(letter["error"].as_str().is_some_and(|error| error.contains("CloudEvent")));
    }

    // What can be read of it is there to look for it by; what has no id is named by its delivery.
    let mut ids = letters.iter().filter_map(|letter| letter["id"].as_str());
    let no_json = ids.find(|id| id.starts_with("no-json")).expect("a letter").to_owned();
    let named = letters.iter().find(|letter| letter["id"] == "no-event").expect("its own id");
    assert_eq!(named["key"], user.id.to_string());

    // Another chance changes nothing about what can't be read.
    let (said, done) = dead_letters(&shop, &["show", &no_json]).await;
    assert!(done && said.contains("body      {") && said.contains("payment.requested"), "{said}");
    let (said, done) = dead_letters(&shop, &["retry", &no_json]).await;
    assert!(done && said.contains("payments: 1 put back"), "{said}");
    eventually("it is given up on again", async || (listed(&shop).await.len() == 4).then_some(()))
        .await;

    for (args, count) in [
        (&["discard", no_json.as_str()][..], 3),
        (&["discard", "--topic", "payment.settled"], 3),
        (&["discard", "--error", "CloudEvent"], 0),
    ] {
        let (said, done) = dead_letters(&shop, args).await;
        assert!(done, "{said}");
        assert_eq!(listed(&shop).await.len(), count, "{args:?}");
    }
    let (said, done) = dead_letters(&shop, &["show", &no_json]).await;
    assert!(!done && said.contains("no dead letter"), "{said}");
    let (_, done) = dead_letters(&shop, &["discard"]).await;
    assert!(!done, "it must be said which");
    settle_one(&user).await;
    shop.close().await;
}

/// A request that was given up on by one and dealt with by another, long ago.
async fn late_retry_debits_nothing_twice(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(100).await;
    settle_one(&user).await;
    let before = shop.quiet().await;
    let message = payment_requested(&before.orders[0]);
    give_up_on(&shop.payments_url, &message).await;
    truth::forget_inboxes(&shop.orders_url, &shop.payments_url).await;
    assert_eq!(listed(&shop).await[0]["id"], message.id);

    let (said, done) = dead_letters(&shop, &["retry", "--all"]).await;
    assert!(done && said.contains("payments: 1 put back"), "{said}");
    eventually("it is dealt with", async || listed(&shop).await.is_empty().then_some(())).await;

    settle_one(&user).await;
    let mut after = shop.close().await;
    assert_eq!((after.orders.len(), after.balance(user.id)), (2, 80));
    after.entries.pop();
    assert_eq!(after.entries, before.entries);
}

async fn give_up_on(url: &str, message: &Message) {
    let db = Db::open(url, 1).expect("a database URL");
    let mut tx = db.begin().await.expect("a connection");
    tx.query(
        "insert into dead_letters
            (id, origin, topic, partition_key, body, received_at, attempts, died_at, error)
         values ($1, 'inbox', $2, $3, $4, 1, 8, 1, 'the test gave up on it')",
    )
    .bind(message.id.as_str())
    .bind(message.topic.as_str())
    .bind(message.key.as_str())
    .bind(&*message.body)
    .execute()
    .await
    .expect("a dead letter");
    tx.commit().await.expect("a commit");
    db.close().await;
}
