//! Live orders: from every instance to every socket of the user, and to nobody else's.

use std::{sync::Arc, time::Duration};

use gozon_contract::RandomSource;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Combo, Door, Incoming, Live, Plan, Reply, Seen, Shop, User, Watcher, at_once, eventually,
};

on_every_combo!(
    every_socket_sees_its_users_orders,
    clients_that_reconnect_miss_nothing,
    late_frames_never_turn_an_order_back,
    a_frame_is_an_order,
    server_sent_events_resume_where_they_ended,
    events_go_on_elsewhere_when_a_process_stops,
);

over_grpc_too!(
    every_socket_sees_its_users_orders,
    clients_that_reconnect_miss_nothing,
    late_frames_never_turn_an_order_back,
    a_frame_is_an_order,
    server_sent_events_resume_where_they_ended,
    events_go_on_elsewhere_when_a_process_stops;
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

async fn events_go_on_elsewhere_when_a_process_stops(combo: Combo) {
    let mut shop = Plan::on(combo).instances(2, 2, 1).start().await;
    let user = shop.new_user().with_balance(1_000).await;
    let done = CancellationToken::new();
    let followers: Vec<_> = (0..10).map(|_| Follower::default()).collect();
    let following: Vec<_> = followers
        .iter()
        .map(|follower| {
            tokio::spawn(follower.clone().follow(user.clone(), shop.doors(), done.clone()))
        })
        .collect();

    let stopping: &[&str] =
        if combo == Combo::SqliteMemory { &["up"] } else { &["gateway-1", "orders-1"] };
    for name in stopping {
        let customer = user.at(shop.doors().last().expect("a door"));
        let placed = tokio::spawn(async move {
            at_once(4, 0..200, |number| {
                // Long, so that a stream is most often within an event.
                let order = json!({"amount": 10, "description": "a kettle ".repeat(100)});
                let (customer, key) = (&customer, format!("{number}"));
                async move { customer.insist("/orders", &key, &order, 201).await }
            })
            .await;
        });
        eventually("something has been placed", async || {
            (followers[0].seen.lock().await.0.len() > 20).then_some(())
        })
        .await;
        let process = shop.process_mut(name);
        process.ask_to_stop();
        process.stopped().await;
        process.start();
        process.ready().await;
        placed.await.expect("a customer");
    }

    let truth = shop.quiet().await;
    for follower in &followers {
        eventually("a follower sees what is stored", async || {
            follower.seen.lock().await.agrees(&truth, &user).then_some(())
        })
        .await;
    }
    done.cancel();
    for connections in following {
        assert!(connections.await.expect("a follower") > 1, "the gateway's end ended no stream");
    }
    shop.close().await;
}

/// Who reads events as a browser does: when they end it goes on where it was, at the next door.
#[derive(Clone, Default)]
struct Follower {
    seen: Arc<Mutex<Seen>>,
}

impl Follower {
    /// Follows until `done`; how many connections it had. They may end only after a whole event.
    async fn follow(self, user: User, doors: Vec<Door>, done: CancellationToken) -> usize {
        let (mut last_id, mut connections): (Option<String>, _) = (None, 0);
        for door in doors.iter().cycle() {
            let user = user.at(door);
            let connecting = Events::try_open(&user, last_id.as_deref());
            if let Some(mut events) = connecting.await {
                connections += 1;
                let reading = async {
                    while let Some((id, frame)) = events.next_if_any().await {
                        assert_eq!(frame["type"] == "snapshot", last_id.is_none(), "{frame}");
                        self.seen.lock().await.take(&frame);
                        last_id = Some(id);
                    }
                };
                if done.run_until_cancelled(reading).await.is_none() {
                    return connections;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        unreachable!("there are doors for ever")
    }
}

/// A client of server-sent events.
struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    async fn open(user: &User, last_event_id: Option<&str>) -> Self {
        Self::try_open(user, last_event_id).await.expect("events")
    }

    /// The events, if somebody has them now.
    async fn try_open(user: &User, last_event_id: Option<&str>) -> Option<Self> {
        let mut request = user.request(Method::GET, "/orders/stream");
        request = request.header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.ok()?.error_for_status().ok()?;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Some(Self { response, buffer: String::new() })
    }

    /// The next event's id and frame; what is no event is passed over.
    async fn next(&mut self) -> (String, Value) {
        self.next_if_any().await.expect("no end")
    }

    /// The same, or the end of the response, which must be complete and end with a whole event.
    async fn next_if_any(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                let found = field("id: ").zip(field("data: ")).map(|(id, data)| {
                    (id.to_owned(), serde_json::from_str(data).expect("a frame of JSON"))
                });
                let read = self.buffer.len() - rest.len();
                self.buffer.drain(..read);
                if found.is_some() {
                    return found;
                }
            }
            let chunk = timeout(Duration::from_mins(1), self.response.chunk()).await;
            let Some(chunk) = chunk.expect("something comes").expect("a complete response") else {
                assert_eq!(self.buffer, "", "it ends within an event");
                return None;
            };
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("whole characters"));
        }
    }
}
