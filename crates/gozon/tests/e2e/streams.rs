//! Live orders: from every instance to every socket of the user, and to nobody else's.

use std::time::Duration;

use gozon_contract::RandomSource;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Combo, Incoming, Live, Plan, Reply, Seen, Shop, User, Watcher, at_once, eventually,
};

on_every_combo!(
    every_socket_sees_its_users_orders,
    clients_that_reconnect_miss_nothing,
    late_frames_never_turn_an_order_back,
    a_frame_is_an_order,
    server_sent_events_resume_where_they_ended,
);

over_grpc_too!(
    every_socket_sees_its_users_orders,
    clients_that_reconnect_miss_nothing,
    late_frames_never_turn_an_order_back,
    a_frame_is_an_order,
    server_sent_events_resume_where_they_ended;
    with kafka: clients_that_reconnect_miss_nothing, server_sent_events_resume_where_they_ended
);

const USERS: usize = 30;
const SOCKETS: usize = 3;
const ORDERS: usize = 2_000;

/// Thirty users, each with enough for two thirds of their orders, and three sockets.
async fn watchers(shop: &Shop) -> (Vec<User>, Vec<Watcher>) {
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(shop.new_user().with_balance(430).await);
    }
    let sockets = users.iter().flat_map(|user| [user; SOCKETS]);
    let watchers = at_once(16, sockets, Watcher::start).await;
    (users, watchers)
}

/// Waits until nothing is under way and every watcher sees what is stored. How many sockets the
/// watchers have had.
async fn all_see_the_same(shop: &Shop, watchers: Vec<Watcher>) -> usize {
    let truth = shop.quiet().await;
    assert_eq!(truth.orders.len(), ORDERS);
    assert!(truth.with_status("FINISHED") > 0 && truth.with_status("CANCELLED") > 0);
    let mut sockets = 0;
    for watcher in watchers {
        eventually("a watcher sees what is stored", async || {
            watcher.seen().await.agrees(&truth, &watcher.user).then_some(())
        })
        .await;
        sockets += watcher.stop().await;
    }
    sockets
}

async fn every_socket_sees_its_users_orders(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 3, 2).start().await;
    let (users, watchers) = watchers(&shop).await;
    for process in shop.processes.iter().filter(|process| process.serves_orders()) {
        let metrics = process.metrics().await;
        let sockets = metrics.lines().find(|line| line.starts_with("gozon_stream_sockets "));
        assert!(sockets.is_some_and(|line| !line.ends_with(" 0")), "{} has none", process.name);
    }

    at_once(64, (0..ORDERS).map(|i| &users[i % USERS]), |user| user.place(10)).await;

    let sockets = all_see_the_same(&shop, watchers).await;
    assert_eq!(sockets, USERS * SOCKETS, "a socket was cut");
    shop.close().await;
}

async fn clients_that_reconnect_miss_nothing(combo: Combo) {
    let mut shop = Plan::on(combo).instances(1, 3, 2).start().await;
    let (users, watchers) = watchers(&shop).await;

    let placed = CancellationToken::new();
    let placing = async {
        at_once(32, (0..ORDERS).map(|i| (&users[i % USERS], i)), |(user, i)| async move {
            let order = json!({"amount": 10, "description": "a kettle"});
            user.insist("/orders", &i.to_string(), &order, 201).await;
        })
        .await;
        placed.cancel();
    };
    let killing = async {
        let instances = shop.processes.iter_mut().filter(|process| process.serves_orders());
        let mut instances: Vec<_> = instances.collect();
        let count = instances.len();
        for round in 0.. {
            tokio::select! {
                () = placed.cancelled() => return,
                () = sleep(Duration::from_secs(1)) => {}
            }
            // One that was killed before is back by now; else there could be nobody left.
            instances[round % count].ready().await;
            instances[round % count].kill().await;
            instances[round % count].start();
        }
    };
    tokio::join!(placing, killing);
    shop.start().await;

    let sockets = all_see_the_same(&shop, watchers).await;
    println!("{sockets} sockets for {} watchers", USERS * SOCKETS);
    shop.close().await;
}

async fn late_frames_never_turn_an_order_back(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(200).await;
    // The frames of two sockets, one of which came later and has a snapshot with some orders.
    let mut early = Live::connect(&user).await.expect("a socket");
    at_once(10, 0..20, |_| user.place(10)).await;
    let mut late = Live::connect(&user).await.expect("a socket");
    at_once(10, 0..20, |_| user.place(10)).await;
    let truth = shop.quiet().await;

    let mut frames = Vec::new();
    for live in [&mut early, &mut late] {
        let mut seen = Seen::default();
        while !seen.agrees(&truth, &user) {
            let frame = live.frame().await;
            seen.take(&frame);
            frames.push(frame);
        }
    }
    let random = RandomSource::seeded(1);
    for _ in 0..200 {
        frames.sort_by_cached_key(|_| random.next_u64());
        let mut seen = Seen::default();
        for frame in &frames {
            let before = seen.clone();
            seen.take(frame);
            let back = |(id, was): (&String, &Value)| was["status"] != "NEW" && seen.0[id] != *was;
            assert!(!before.0.iter().any(back), "a settled order was turned back by {frame}");
        }
        assert!(seen.agrees(&truth, &user));
    }
    shop.close().await;
}

async fn a_frame_is_an_order(combo: Combo) {
    let shop = Shop::on(combo).await;
    let (user, other) = (shop.new_user().with_balance(100).await, shop.new_user());
    let mut live = Live::connect(&user).await.expect("a socket");
    let mut elsewhere = Live::connect(&other).await.expect("a socket");
    for live in [&mut live, &mut elsewhere] {
        assert_eq!(live.frame().await, json!({"type": "snapshot", "orders": []}));
    }

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let order = json!({"amount": 10, "description": "Чайник"});
    let request = user.request(Method::POST, "/orders").json(&order);
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let placed = Reply::to(request).await.ok(201);

    // It may be NEW first; what counts is how it ends, and that the trace has come all the way:
    // over two outboxes, two brokers' topics and a broadcast.
    let settled = loop {
        let frame = live.frame().await;
        assert_eq!(frame["type"], "order");
        assert_eq!(frame["traceparent"].as_str().map(|parent| &parent[3..35]), Some(trace));
        if frame["order"]["status"] != "NEW" {
            break frame["order"].clone();
        }
        assert_eq!(frame["order"], placed);
    };
    assert_eq!(settled, user.order(placed["id"].as_str().expect("an id")).await);
    assert_eq!(settled["status"], "FINISHED");

    // A later socket begins with the same order, and with the newest hundred at the most.
    let mut later = Live::connect(&user).await.expect("a socket");
    assert_eq!(later.frame().await, json!({"type": "snapshot", "orders": [settled]}));
    at_once(32, 0..110, |_| user.place(1_000)).await;
    shop.quiet().await;
    let mut full = Live::connect(&user).await.expect("a socket");
    let snapshot = full.frame().await;
    let listed = user.get("/orders?limit=100").await.ok(200)["items"].clone();
    assert_eq!(snapshot, json!({"type": "snapshot", "orders": listed}));

    // Nobody else was told; the first thing that the other hears is their own.
    other.place(5).await;
    assert_eq!(elsewhere.frame().await["order"]["user_id"], other.id.to_string());
    live.leave().await;
    let mut left = elsewhere;
    left.say("hello?".to_owned()).await;
    other.place(6).await;
    loop {
        match left.next().await {
            Incoming::Frame(frame) if frame["order"]["amount"] == 6 => break,
            Incoming::Frame(_) | Incoming::Ping => {}
            Incoming::Closed(code) => panic!("a word from the client ended it: {code:?}"),
        }
    }
    shop.close().await;
}

async fn server_sent_events_resume_where_they_ended(combo: Combo) {
    let shop = Plan::on(combo).instances(1, 2, 1).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let (mut seen, mut events) = (Seen::default(), Events::open(&user, None).await);
    let (first_id, snapshot) = events.next().await;
    assert_eq!(snapshot, json!({"type": "snapshot", "orders": []}));

    at_once(4, 0..10, |_| user.place(10)).await;
    let truth = shop.quiet().await;
    let mut last_id = first_id.clone();
    while !seen.agrees(&truth, &user) {
        let (id, frame) = events.next().await;
        assert!(id >= last_id, "ids go back");
        last_id = id;
        seen.take(&frame);
    }
    drop(events);

    // More than a page of changes while it was away; each is sent, and no snapshot.
    at_once(16, 0..150, |_| user.place(5)).await;
    let truth = shop.quiet().await;
    for id in [last_id, first_id] {
        let (mut seen, mut events) = (seen.clone(), Events::open(&user, Some(&id)).await);
        while !seen.agrees(&truth, &user) {
            let (_, frame) = events.next().await;
            assert_eq!(frame["type"], "order");
            seen.take(&frame);
        }
    }

    // An id that says nothing begins anew.
    let (_, snapshot) = Events::open(&user, Some("none")).await.next().await;
    assert_eq!(snapshot["orders"].as_array().map(Vec::len), Some(100));
    shop.close().await;
}

/// A client of server-sent events.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    async fn open(user: &User, last_event_id: Option<&str>) -> Self {
        let mut request = user.request(Method::GET, "/orders/stream");
        request = request.header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    /// The next event's id and frame; what is no event is passed over.
    async fn next(&mut self) -> (String, Value) {
        loop {
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                let found = field("id: ").zip(field("data: ")).map(|(id, data)| {
                    (id.to_owned(), serde_json::from_str(data).expect("a frame of JSON"))
                });
                let read = self.buffer.len() - rest.len();
                self.buffer.drain(..read);
                if let Some(found) = found {
                    return found;
                }
            }
            let chunk = timeout(Duration::from_mins(1), self.response.chunk()).await;
            let chunk = chunk.expect("something comes").expect("a chunk").expect("no end");
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("whole characters"));
        }
    }
}
