//! Requests that can't be: each has its exact answer, none of them a 500, and none does anything.

use reqwest::{Body, Method, RequestBuilder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Combo, Door, Reply, Shop, Truth, User};

on_every_combo!(every_bad_request_has_its_answer, what_is_no_http);

/// What is sent, and the status and code of the answer.
type Case = (String, RequestBuilder, u16, &'static str);

/// Bodies that can't be read, whatever they are sent to.
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

/// Values of the right form, but not acceptable: each with the errors of its fields.
async fn check_values(user: &User) -> usize {
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
    let mut cases = vec![
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

/// What the HTTP library turns away by itself: no problem of ours, but no trouble either.
async fn what_is_no_http(combo: Combo) {
    let shop = Shop::on(combo).await;
    let address = shop.door().url.replace("http://", "");
    let long = "x".repeat(100 * 1024);
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("GET /orders HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET /orders HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), "400"),
        ("GET /ord ers HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(), "400"),
        (
            "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"
                .to_owned(),
            "400",
        ),
        (format!("GET /orders HTTP/1.1\r\nHost: x\r\nLong: {long}\r\n\r\n"), "431"),
        (format!("GET /orders HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(200)), "431"),
    ] {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let head = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&head), "{request:.80}: {answer}");
    }
    shop.new_user().open_account().await;
    shop.close().await;
}
