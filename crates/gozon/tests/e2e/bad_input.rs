//! Requests that can't be: each has its exact answer, none of them a 500, and none does anything.

use reqwest::{Body, Method, RequestBuilder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Combo, Door, Plan, Reply, Shop, Truth, User};

on_every_combo!(every_bad_request_has_its_answer, what_is_no_http);

over_grpc_too!(every_bad_request_has_its_answer);

/// What is sent, and the status and code of the answer.
type Case = (String, RequestBuilder, u16, &'static str);

/// Bodies that no endpoint can read.
const UNREADABLE: &[&str] = &[
    "",
    " ",
    "{",
    "}",
    "null",
    "true",
    "42",
    r#""a kettle""#,
    "[]",
    r#"[{"amount": 1, "description": "x"}]"#,
    r#"{"amount": 1, "description": "x",}"#,
    r#"{"amount": 1 "description": "x"}"#,
    r#"{amount: 1, description: "x"}"#,
    "{'amount': 1, 'description': 'x'}",
    r#"{"amount": 1, "description": "x"} {"amount": 1, "description": "x"}"#,
    r#"{"amount": 1, "amount": 2, "description": "x"}"#,
    r#"{"amount": 1, "description": "x", "other": 1, "other": 1}"#,
    r#"{"amount": 1, "\u0061mount": 1, "description": "x"}"#,
    r#"{"amount": 1, /* no */ "description": "x"}"#,
    r#"{"amount": NaN, "description": "x"}"#,
    r#"{"amount": Infinity, "description": "x"}"#,
    r#"{"amount": 0x10, "description": "x"}"#,
    r#"{"amount": 010, "description": "x"}"#,
    r#"{"amount": +1, "description": "x"}"#,
    r#"{"amount": 1., "description": "x"}"#,
    r#"{"amount": 1e400, "description": "x"}"#,
    r#"{"amount": 1, "description": "\ud800"}"#,
    r#"{"amount": 1, "description": "\x41"}"#,
    "{\"amount\": 1, \"description\": \"a\nb\"}",
    "\u{feff}{\"amount\": 1, \"description\": \"x\"}",
    "amount=1&description=x",
    "<order><amount>1</amount></order>",
];

/// Values that are no amount, with the code of the field's error.
const NO_AMOUNT: &[(&str, &str)] = &[
    ("null", "wrong_type"),
    ("true", "wrong_type"),
    (r#""10""#, "wrong_type"),
    (r#""""#, "wrong_type"),
    ("[10]", "wrong_type"),
    (r#"{"amount": 10}"#, "wrong_type"),
    ("1.5", "wrong_type"),
    ("1.0", "wrong_type"),
    ("1e3", "wrong_type"),
    ("-0.0", "wrong_type"),
    ("0.1e1", "wrong_type"),
    ("0", "out_of_range"),
    ("-1", "out_of_range"),
    ("1000000000001", "out_of_range"),
    ("-1000000000000", "out_of_range"),
    ("9007199254740993", "out_of_range"),
    ("9223372036854775807", "out_of_range"),
    ("9223372036854775808", "out_of_range"),
    ("18446744073709551615", "out_of_range"),
    ("18446744073709551616", "out_of_range"),
    ("-9223372036854775808", "out_of_range"),
    ("-9223372036854775809", "out_of_range"),
    ("99999999999999999999999999999999999999999999", "out_of_range"),
];

fn bodies(user: &User) -> Vec<Case> {
    let post = |path: &str, body: Vec<u8>| {
        user.request(Method::POST, path).header("content-type", "application/json").body(body)
    };
    let mut cases: Vec<Case> = Vec::new();
    for path in ["/orders", "/accounts/deposit"] {
        for body in UNREADABLE {
            let what = format!("{path} {body}");
            cases.push((what, post(path, body.as_bytes().to_vec()), 400, "invalid_json"));
        }
        let invalid_utf8 = b"{\"amount\": 1, \"description\": \"\xff\xfe\"}".to_vec();
        cases.push((format!("{path} UTF-8"), post(path, invalid_utf8), 400, "invalid_json"));
        let utf16 = "{\"amount\": 1, \"description\": \"x\"}".encode_utf16();
        let utf16 = utf16.flat_map(u16::to_be_bytes).collect();
        cases.push((format!("{path} UTF-16"), post(path, utf16), 400, "invalid_json"));
        let deep = format!("{{\"amount\": {}", "[".repeat(30_000));
        cases.push((format!("{path} deep"), post(path, deep.into_bytes()), 400, "invalid_json"));
        let large = format!(
            "{{\"amount\": 1, \"description\": \"x\", \"other\": \"{}\"}}",
            "x".repeat(65 * 1024)
        );
        let chunks = Body::wrap_stream(futures_util::stream::iter(
            large
                .as_bytes()
                .chunks(4096)
                .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
                .collect::<Vec<_>>(),
        ));
        let chunked = user
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .body(chunks);
        cases.push((format!("{path} chunked"), chunked, 413, "body_too_large"));
        cases.push((
            format!("{path} large"),
            post(path, large.into_bytes()),
            413,
            "body_too_large",
        ));
    }
    cases.push(("/accounts {".to_owned(), post("/accounts", b"{".to_vec()), 400, "invalid_json"));
    cases
}

fn headers(user: &User, door: &Door) -> Vec<Case> {
    let id = user.id.to_string();
    let body = json!({"amount": 1, "description": "x"});
    let mut cases: Vec<Case> = Vec::new();

    let no_user_ids: [&[u8]; 10] = [
        b"",
        b"1",
        b"me",
        b"018f4e9a3c1b7c2d9e4f5a6b7c8d9e0f",
        b"{018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f}",
        b"urn:uuid:018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f",
        b"018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0",
        b"018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0g",
        b"018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f, 018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f",
        b"\xff\xfe",
    ];
    for (method, path) in [
        (Method::POST, "/orders"),
        (Method::GET, "/orders"),
        (Method::GET, "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f"),
        (Method::POST, "/accounts"),
        (Method::POST, "/accounts/deposit"),
        (Method::GET, "/accounts/balance"),
        (Method::GET, "/accounts/entries"),
    ] {
        let request = || {
            let request = door.request(method.clone(), path);
            if method == Method::POST { request.json(&body) } else { request }
        };
        let what = format!("{method} {path}");
        cases.push((format!("{what} without a user"), request(), 400, "missing_user_id"));
        for bad in no_user_ids {
            let what = format!("{what} of {}", String::from_utf8_lossy(bad));
            cases.push((what, request().header("x-user-id", bad), 400, "invalid_user_id"));
        }
        let twice = request().header("x-user-id", &id).header("x-user-id", &id);
        cases.push((format!("{what} of two users"), twice, 400, "invalid_user_id"));
    }

    for path in ["/orders", "/accounts/deposit", "/accounts"] {
        let request = || user.request(Method::POST, path);
        for media in [
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "json",
            "application/jsonx",
            "*/*",
        ] {
            let request = request().header("content-type", media).body(body.to_string());
            cases.push((format!("{path} as {media}"), request, 415, "unsupported_media_type"));
        }
        let silent = request().body(body.to_string());
        cases.push((format!("{path} as nothing"), silent, 415, "unsupported_media_type"));

        let keys: [&[u8]; 6] =
            [b"", b"two words", &[b'k'; 256], "ключ".as_bytes(), b"tab\there", b"\xff"];
        for key in keys {
            let what = format!("{path} with key {}", String::from_utf8_lossy(key));
            let request = request().header("idempotency-key", key).json(&body);
            cases.push((what, request, 400, "invalid_idempotency_key"));
        }
        let two = request().header("idempotency-key", "a").header("idempotency-key", "a");
        let what = format!("{path} with two keys");
        cases.push((what, two.json(&body), 400, "invalid_idempotency_key"));
    }
    cases
}

fn targets(user: &User) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (method, path, status, code) in [
        ("GET", "/orders/1", 400, "invalid_order_id"),
        ("GET", "/orders/018f4e9a3c1b7c2d9e4f5a6b7c8d9e0f", 400, "invalid_order_id"),
        ("GET", "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f0", 400, "invalid_order_id"),
        ("GET", "/orders/%7B018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f%7D", 400, "invalid_order_id"),
        ("GET", "/orders/%00", 400, "invalid_order_id"),
        ("GET", "/orders/%ff", 400, "invalid_order_id"),
        ("GET", "/orders/'%20or%20'1'='1", 400, "invalid_order_id"),
        ("GET", "/orders/..%2f..%2fetc%2fpasswd", 400, "invalid_order_id"),
        ("GET", "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f", 404, "order_not_found"),
        ("GET", "/orders/00000000-0000-0000-0000-000000000000", 404, "order_not_found"),
        ("GET", "/orders/ffffffff-ffff-ffff-ffff-ffffffffffff", 404, "order_not_found"),
        ("GET", "/orders/", 404, "route_not_found"),
        ("GET", "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f/items", 404, "route_not_found"),
        ("GET", "/accounts/", 404, "route_not_found"),
        ("GET", "/accounts/everybody", 404, "route_not_found"),
        ("POST", "/accounts/withdraw", 404, "route_not_found"),
        ("GET", "/accounts", 405, "method_not_allowed"),
        ("DELETE", "/accounts", 405, "method_not_allowed"),
        ("GET", "/accounts/deposit", 405, "method_not_allowed"),
        ("POST", "/accounts/balance", 405, "method_not_allowed"),
        ("PUT", "/accounts/entries", 405, "method_not_allowed"),
        ("DELETE", "/orders", 405, "method_not_allowed"),
        ("PATCH", "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f", 405, "method_not_allowed"),
        ("DELETE", "/orders/018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f", 405, "method_not_allowed"),
        ("POST", "/orders/stream", 405, "method_not_allowed"),
        ("BREW", "/orders", 405, "method_not_allowed"),
        ("GET", "/orders/stream", 426, "upgrade_required"),
    ] {
        let request = user.request(method.parse().expect("a method"), path);
        cases.push((format!("{method} {path}"), request, status, code));
    }
    for path in ["/orders", "/accounts/entries"] {
        for (query, status, code) in [
            ("limit=0", 422, "validation_failed"),
            ("limit=101", 422, "validation_failed"),
            ("limit=-1", 422, "validation_failed"),
            ("limit=18446744073709551616", 422, "validation_failed"),
            ("limit=", 400, "invalid_limit"),
            ("limit=ten", 400, "invalid_limit"),
            ("limit=1.5", 400, "invalid_limit"),
            ("limit=%201", 400, "invalid_limit"),
            ("limit=1&limit=2", 400, "invalid_query"),
            ("cursor=", 400, "invalid_cursor"),
            ("cursor=1", 400, "invalid_cursor"),
            ("cursor=%00", 400, "invalid_cursor"),
            ("cursor=o", 400, "invalid_cursor"),
            ("cursor=o018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f", 400, "invalid_cursor"),
            ("cursor=ozzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", 400, "invalid_cursor"),
            ("cursor=e", 400, "invalid_cursor"),
            ("cursor=e0", 400, "invalid_cursor"),
            ("cursor=e-1", 400, "invalid_cursor"),
            ("cursor=e01", 400, "invalid_cursor"),
            ("cursor=effffffffffffffff", 400, "invalid_cursor"),
            ("cursor=a&cursor=b", 400, "invalid_query"),
        ] {
            let path = format!("{path}?{query}");
            let request = user.request(Method::GET, &path);
            cases.push((path, request, status, code));
        }
    }
    for (path, status, code) in [
        ("/orders?status=", 422, "validation_failed"),
        ("/orders?status=new", 422, "validation_failed"),
        ("/orders?status=PAID", 422, "validation_failed"),
        ("/orders?status=NEW'--", 422, "validation_failed"),
        ("/orders?status=NEW&status=NEW", 400, "invalid_query"),
        // Each list has its own cursors.
        ("/orders?cursor=e1", 400, "invalid_cursor"),
        ("/accounts/entries?cursor=o018f4e9a3c1b7c2d9e4f5a6b7c8d9e0f", 400, "invalid_cursor"),
    ] {
        cases.push((path.to_owned(), user.request(Method::GET, path), status, code));
    }
    cases
}

/// Every bad request of this user, to compare the answers of two doors.
pub fn corpus(user: &User) -> Vec<(String, RequestBuilder)> {
    let cases = [bodies(user), headers(user, &user.door), targets(user)].into_iter().flatten();
    let mut corpus: Vec<_> = cases.map(|(what, request, ..)| (what, request)).collect();
    for (path, body, _) in values() {
        let request = user.request(Method::POST, path).header("content-type", "application/json");
        corpus.push((format!("{path} {body}"), request.body(body)));
    }
    corpus
}

/// A path and body, and the errors of its fields.
type Value = (&'static str, String, Vec<(&'static str, &'static str)>);

/// Values of the right form, but not acceptable.
fn values() -> Vec<Value> {
    let too_long = json!("я".repeat(1001)).to_string();
    let descriptions: &[(&str, &str)] = &[
        ("null", "wrong_type"),
        ("1", "wrong_type"),
        ("false", "wrong_type"),
        (r#"["x"]"#, "wrong_type"),
        (r#"{"text": "x"}"#, "wrong_type"),
        (r#""""#, "out_of_range"),
        (r#""a\u0000b""#, "out_of_range"),
        (&too_long, "out_of_range"),
    ];
    let mut cases: Vec<Value> = vec![
        ("/orders", "{}".to_owned(), vec![("amount", "required"), ("description", "required")]),
        (
            "/orders",
            r#"{"Amount": 1, "DESCRIPTION": "x"}"#.to_owned(),
            vec![("amount", "required"), ("description", "required")],
        ),
        ("/orders", r#"{"amount": 1}"#.to_owned(), vec![("description", "required")]),
        ("/orders", r#"{"description": "x"}"#.to_owned(), vec![("amount", "required")]),
        (
            "/orders",
            r#"{"amount": 0, "description": ""}"#.to_owned(),
            vec![("amount", "out_of_range"), ("description", "out_of_range")],
        ),
        ("/accounts/deposit", "{}".to_owned(), vec![("amount", "required")]),
    ];
    for &(amount, code) in NO_AMOUNT {
        let order = format!(r#"{{"amount": {amount}, "description": "x"}}"#);
        cases.push(("/orders", order, vec![("amount", code)]));
        let deposit = format!(r#"{{"amount": {amount}}}"#);
        cases.push(("/accounts/deposit", deposit, vec![("amount", code)]));
    }
    for &(description, code) in descriptions {
        let order = format!(r#"{{"amount": 1, "description": {description}}}"#);
        cases.push(("/orders", order, vec![("description", code)]));
    }

    cases
}

async fn check_values(user: &User) -> usize {
    let cases = values();
    let count = cases.len();
    for (path, body, expected) in cases {
        let request = user.request(Method::POST, path).header("content-type", "application/json");
        let problem = Reply::to(request.body(body.clone())).await.problem(422, "validation_failed");
        let errors = problem["errors"].as_array().expect("errors");
        assert!(errors.iter().all(|error| error["detail"].is_string()), "{problem}");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let found: Vec<_> =
            errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(field, code)| ((*field).to_owned(), (*code).to_owned()))
            .collect();
        assert_eq!(found, expected, "{path} {body}");
    }
    count
}

async fn every_bad_request_has_its_answer(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user().with_balance(1_000).await;
    let before = Truth::read(&shop.orders_url, &shop.payments_url).await;

    let cases = [bodies(&user), headers(&user, &shop.door()), targets(&user)].into_iter().flatten();
    let mut count = check_values(&user).await;
    for (what, request, status, code) in cases {
        let reply = Reply::to(request).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        reply.problem(status, code);
        if status == 405 {
            assert!(reply.header("allow").is_some_and(|allow| !allow.is_empty()), "{what}");
        }
        count += 1;
    }
    assert!(count > 300, "only {count} bad requests");

    assert_eq!(Truth::read(&shop.orders_url, &shop.payments_url).await, before);
    shop.close().await;
}

/// What the HTTP library can't read is a problem like any other, and no trouble.
async fn what_is_no_http(combo: Combo) {
    let shop = Shop::on(combo).await;
    let long = "x".repeat(100 * 1024);
    let many = "a: b\r\n".repeat(200);
    let twice = "Content-Length: 1\r\nContent-Length: 2\r\n";
    for (request, status, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET /orders HTTP/9.9\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET /orders HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET /ord ers HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 400, "invalid_request"),
        (head("POST /orders", "Content-Length: -1\r\n"), 400, "invalid_request"),
        (head("POST /orders", twice) + "{}", 400, "invalid_request"),
        (head("GET /orders", &format!("Long: {long}\r\n")), 431, "headers_too_large"),
        (head("GET /orders", &many), 431, "headers_too_large"),
        // What HTTP allows, but not here.
        ("GET /orders HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400, "invalid_host"),
        (head("GET /orders", "Host: y\r\n"), 400, "invalid_host"),
        (head("GET /orders", &"a: b\r\n".repeat(95)), 431, "headers_too_large"),
        (head("TRACE /orders", ""), 405, "method_not_allowed"),
        (head("BREW /orders", ""), 405, "method_not_allowed"),
        (head("POST /order", ""), 404, "route_not_found"),
        (head("GET //orders", ""), 404, "route_not_found"),
        (head("CONNECT x:1", ""), 501, "method_not_implemented"),
        (
            head("POST /orders", "Content-Encoding: gzip\r\nContent-Length: 2\r\n") + "{}",
            415,
            "unsupported_content_encoding",
        ),
        (
            head("POST /orders", "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n",
            501,
            "unsupported_transfer_encoding",
        ),
    ] {
        let answer = raw(&shop, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.80}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/problem+json"), "{request:.80}: {answer}");
        let problem: serde_json::Value = serde_json::from_str(body).expect("a problem");
        assert_eq!(problem["code"], code, "{request:.80}");
        let id = problem["request_id"].as_str().expect("a request id");
        assert!(!id.is_empty() && head.contains(&format!("x-request-id: {id}")), "{answer}");
        if status == 405 {
            assert!(head.contains("\r\nallow: post,get,head"), "{answer}");
        }
    }
    shop.new_user().open_account().await;
    shop.close().await;
}

fn head(start: &str, fields: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n")
}

/// Sends these bytes and reads until the gateway closes.
async fn raw(shop: &Shop, request: &str) -> String {
    let address = shop.door().url.replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.expect("a connection");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The page is at `/`, for browsers; nothing else is answered with it.
#[tokio::test]
async fn only_the_page_is_the_page() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("assets")).expect("a folder");
    for (name, text) in [("index.html", "<h1>page</h1>"), ("assets/a-1.css", "a {}")] {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let web_dir = folder.path().to_str().expect("a path");
    let plan = Plan::on(Combo::SqliteMemory).setting("GOZON_WEB_DIR", web_dir);
    let shop = plan.start().await;
    let client = reqwest::Client::new();
    let ask = async |method: &str, path: &str, accept: Option<&str>| {
        let method = method.parse().expect("a method");
        let request = client.request(method, format!("{}{path}", shop.door().url));
        Reply::to(accept.into_iter().fold(request, |r, accept| r.header("accept", accept))).await
    };

    for accept in [None, Some("*/*"), Some("text/html,application/xml;q=0.9"), Some("text/*")] {
        let page = ask("GET", "/", accept).await;
        assert_eq!((page.status, page.text.as_str()), (200, "<h1>page</h1>"));
        assert_eq!(page.header("cache-control"), Some("no-cache"));
        assert_eq!(ask("HEAD", "/", accept).await.status, 200);
    }
    let asset = ask("GET", "/assets/a-1.css", Some("text/css")).await;
    assert_eq!((asset.status, asset.text.as_str()), (200, "a {}"));
    assert!(asset.header("cache-control").is_some_and(|value| value.contains("immutable")));

    for (method, path, accept) in [
        ("GET", "/", Some("application/json")),
        ("GET", "/", Some("text/html;q=0, application/json")),
        ("GET", "/", Some("text/html; level=1; q=0.000")),
        ("GET", "/./index.html", Some("application/json")),
        ("GET", "/%69ndex.html", Some("application/json")),
        ("GET", "/metrics", None),
        ("GET", "/nothing/here", Some("text/html")),
        ("GET", "/account/balance", Some("*/*")),
        ("GET", "/assets", Some("text/html")),
        ("GET", "/assets/", Some("text/html")),
        ("GET", "/assets/a-0.css", Some("text/css")),
        ("GET", "//index.html", None),
        ("GET", "/..%2findex.html", None),
        ("GET", "/%00", None),
        ("POST", "/order", None),
        ("DELETE", "/nothing/here", None),
    ] {
        let missing = ask(method, path, accept).await;
        assert_eq!(missing.header("cache-control"), Some("no-store"), "{method} {path}");
        missing.problem(404, "route_not_found");
    }
    for path in ["/", "/assets/a-1.css"] {
        let refused = ask("POST", path, None).await;
        assert_eq!(refused.header("allow"), Some("GET,HEAD"));
        refused.problem(405, "method_not_allowed");
    }

    let tag = asset.header("last-modified").expect("a date");
    let request = client.get(format!("{}/assets/a-1.css", shop.door().url));
    let unchanged = Reply::to(request.header("if-modified-since", tag)).await;
    assert_eq!(unchanged.status, 304);
    assert!(unchanged.header("cache-control").is_some_and(|value| value.contains("immutable")));
    let request = client.get(format!("{}/assets/a-1.css", shop.door().url));
    let unmet = request.header("if-unmodified-since", "Mon, 01 Jan 2001 00:00:00 GMT");
    Reply::to(unmet).await.problem(412, "precondition_failed");

    // What libraries answer, and the door for operators.
    ask("GET", "/swagger/nothing", None).await.problem(404, "route_not_found");
    let admin = |path: &str| shop.processes[0].admin(path);
    Reply::to(client.get(admin("/nothing"))).await.problem(404, "route_not_found");
    let refused = Reply::to(client.post(admin("/metrics"))).await;
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    refused.problem(405, "method_not_allowed");
    shop.close().await;
}
