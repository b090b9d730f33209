//! What a socket may cost, and how it ends.

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::harness::{
    Combo, Incoming, Live, Plan, Process, Reply, Shop, User, at_once, eventually,
};

on_every_combo!(
    a_reader_that_stops_is_cut_off,
    sockets_are_told_when_the_server_stops,
    there_is_room_for_so_many,
    pages_from_elsewhere_are_refused,
    silent_clients_are_cut_off,
);

over_grpc_too!(
    a_reader_that_stops_is_cut_off,
    there_is_room_for_so_many,
    pages_from_elsewhere_are_refused,
    silent_clients_are_cut_off,
);

/// A handshake, to see the answer where it is refused.
fn handshake(user: &User, query: &str) -> RequestBuilder {
    user.door
        .request(Method::GET, &format!("/orders/stream{query}"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

async fn closed_with(shop: &Shop, code: &str) -> bool {
    let line = format!("gozon_stream_closed_total{{code=\"{code}\"}}");
    for process in &shop.processes {
        if process.metrics().await.contains(&line) {
            return true;
        }
    }
    false
}

async fn a_reader_that_stops_is_cut_off(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user();
    let (mut stuck, mut reader) = (
        Live::with_buffer(&user, Some(4096)).await.expect("a socket"),
        Live::connect(&user).await.expect("a socket"),
    );
    let memory = |shop: &Shop| shop.processes.iter().map(Process::memory).sum::<u64>();
    let before = memory(&shop);

    let long = json!({"amount": 1, "description": "🫖".repeat(1000)});
    let mut placed = 0;
    let reading = tokio::spawn(async move {
        let mut settled = 0;
        loop {
            let frame = reader.frame().await;
            settled += usize::from(frame["order"]["status"] == "CANCELLED");
            if frame["order"]["amount"] == 2 && frame["order"]["status"] == "CANCELLED" {
                return settled;
            }
        }
    });
    while !closed_with(&shop, "1013").await {
        // Many at a time: a client that takes nothing for 30 s is cut off without a word.
        at_once(64, 0..1_500, |_| user.post("/orders", &long)).await;
        placed += 1_500;
        assert!(placed <= 10_000, "{placed} orders, and the stuck reader is not cut off");
        // So that the one who does read has the time to.
        shop.quiet().await;
    }
    let grown = memory(&shop).saturating_sub(before);
    assert!(grown < 200 << 20, "a stuck reader costs {grown} bytes");
    user.post("/orders", &json!({"amount": 2, "description": "last"})).await.ok(201);
    assert_eq!(reading.await.expect("a reader"), placed + 1);

    // When it reads again, it is told why it was cut off.
    assert_eq!(stuck.end().await, Some(1013));
    shop.close().await;
}

async fn sockets_are_told_when_the_server_stops(combo: Combo) {
    // A gateway that speaks gRPC ends the sockets itself: see `carriers`.
    let mut shop = Plan::on(combo).inside("http").instances(1, 2, 1).start().await;
    let user = shop.new_user();
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut live = Live::connect(&user).await.expect("a socket");
        live.frame().await;
        sockets.push(live);
    }
    for process in shop.processes.iter_mut().filter(|process| process.serves_orders()) {
        process.ask_to_stop();
    }
    for mut live in sockets {
        assert_eq!(live.end().await, Some(1012));
    }
    for process in shop.processes.iter_mut().filter(|process| process.serves_orders()) {
        process.stopped().await;
    }
    shop.start().await;
    Live::connect(&user).await.expect("a socket").frame().await;
    shop.close().await;
}

async fn there_is_room_for_so_many(combo: Combo) {
    let shop = Plan::on(combo)
        .setting("GOZON_MAX_SOCKETS_PER_USER", "2")
        .setting("GOZON_MAX_SOCKETS", "3")
        .start()
        .await;
    let (user, other) = (shop.new_user(), shop.new_user());
    let refused = async |user: &User, status: u16| {
        let reply = Reply::to(handshake(user, &format!("?user_id={}", user.id))).await;
        reply.problem(status, "too_many_sockets");
        assert!(reply.header("retry-after").is_some());
    };

    let first = Live::connect(&user).await.expect("a socket");
    let mut second = Live::connect(&user).await.expect("a socket");
    refused(&user, 429).await;
    let _others = Live::connect(&other).await.expect("a socket");
    refused(&other, 503).await;

    // A socket that ends makes room, be it by its client or for what it says.
    first.leave().await;
    let mut third =
        eventually("there is room again", async || Live::connect(&user).await.ok()).await;
    third.frame().await;
    second.say("x".repeat(5 * 1024)).await;
    assert_eq!(second.end().await, Some(1009));
    eventually("there is room again", async || Live::connect(&other).await.ok()).await;

    // It needs to be said who asks, and for a WebSocket.
    for (query, status, code) in [
        ("", 400, "missing_user_id"),
        ("?user_id=", 400, "invalid_user_id"),
        ("?user_id=me", 400, "invalid_user_id"),
    ] {
        Reply::to(handshake(&user, query)).await.problem(status, code);
    }
    for (name, value) in [("sec-websocket-version", "12"), ("upgrade", "h2c")] {
        let request = user.request(Method::GET, "/orders/stream").header("connection", "upgrade");
        let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        Reply::to(request.header(name, value)).await.problem(426, "upgrade_required");
    }
    shop.close().await;
}

async fn pages_from_elsewhere_are_refused(combo: Combo) {
    let shop = Plan::on(combo)
        .setting("GOZON_ALLOWED_ORIGINS", "https://shop.example,https://app.example")
        .setting("GOZON_MAX_SOCKETS_PER_USER", "0")
        .start()
        .await;
    let user = shop.new_user();
    let own = user.door.url.clone();
    // Nobody gets a seat here, so that one who is let in is told that there is none.
    for (origin, status, code) in [
        ("https://evil.example", 403, "origin_not_allowed"),
        ("null", 403, "origin_not_allowed"),
        ("https://shop.example.evil.example", 403, "origin_not_allowed"),
        ("http://shop.example", 403, "origin_not_allowed"),
        ("https://shop.example", 429, "too_many_sockets"),
        ("https://app.example", 429, "too_many_sockets"),
        (own.as_str(), 429, "too_many_sockets"),
    ] {
        let request = handshake(&user, &format!("?user_id={}", user.id)).header("origin", origin);
        Reply::to(request).await.problem(status, code);
    }
    let reply = Reply::to(handshake(&user, &format!("?user_id={}", user.id))).await;
    reply.problem(429, "too_many_sockets");
    shop.close().await;
}

async fn silent_clients_are_cut_off(combo: Combo) {
    let shop = Plan::on(combo).setting("GOZON_HEARTBEAT", "2").start().await;
    let user = shop.new_user();
    // This one reads, but gives no sign of life; the other answers pings.
    let mut silent = Live::connect(&user).await.expect("a socket").into_stream();
    let mut alive = Live::connect(&user).await.expect("a socket");
    let mut pings = 0;
    let mut received = Vec::new();
    let ended = async { silent.read_to_end(&mut received).await.map(drop).unwrap_or_default() };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            next = alive.next() => match next {
                Incoming::Ping => pings += 1,
                Incoming::Frame(_) => {}
                Incoming::Closed(code) => panic!("the live one was cut off: {code:?}"),
            },
        }
    }
    assert!(pings >= 1, "cut off without having been asked");
    user.place(1).await;
    assert_eq!(alive.frame().await["type"], "order");
    shop.close().await;
}
