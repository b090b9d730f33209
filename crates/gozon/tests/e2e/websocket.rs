//! RFC 6455, case by case, with a client that sends any bytes it likes. The cases are those of the
//! Autobahn test suite that a server can meet that only sends.
//!
//! The suite itself is not run: its newest release (25.10.1) is still written in Python 2, which
//! current distributions no longer have, and its fuzzing client wants a server that echoes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Combo, Shop, User};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_of_one_process() {
    every_case(Combo::SqliteMemory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_through_the_gateway() {
    every_case(Combo::PostgresRabbit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_of_a_gateway_that_speaks_grpc() {
    every_case(Combo::PostgresRabbitGrpc).await;
}

const PATIENCE: Duration = Duration::from_secs(30);

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A frame as a client sends it: masked, with a mask that is not nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut bytes = head(first, MASKED, payload.len() as u64);
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn head(first: u8, masked: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(masked | u8::try_from(length).expect("small")),
        126..65_536 => {
            bytes.push(masked | 0x7e);
            bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
        }
        _ => {
            bytes.push(masked | 0x7f);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// What fails the connection, and the code that the server must give.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let invalid = b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80";
    let mut cases = vec![
        ("an unmasked frame", [head(FIN | TEXT, 0, 2), b"hi".to_vec()].concat(), 1002),
        ("reserved bit 1", frame(FIN | 0x40 | TEXT, b"hi"), 1002),
        ("reserved bit 2", frame(FIN | 0x20 | TEXT, b"hi"), 1002),
        ("reserved bit 3", frame(FIN | 0x10 | PING, b""), 1002),
        ("data opcode 3", frame(FIN | 0x3, b""), 1002),
        ("data opcode 7", frame(FIN | 0x7, b"hi"), 1002),
        ("control opcode 11", frame(FIN | 0xb, b""), 1002),
        ("control opcode 15", frame(FIN | 0xf, b"hi"), 1002),
        ("a ping of 126 bytes", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("a close frame of 126 bytes", close(1000, &[b'x'; 124]), 1002),
        ("a fragmented ping", frame(PING, b"hi"), 1002),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"hi"), 1002),
        ("a text within a text", [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), 1002),
        ("a close frame of one byte", frame(FIN | CLOSE, b"x"), 1002),
        ("a reason that is no UTF-8", close(1000, invalid), 1007),
        ("a text that is no UTF-8", frame(FIN | TEXT, invalid), 1007),
        (
            "fragments that are no UTF-8",
            [frame(TEXT, &invalid[..3]), frame(FIN | CONTINUATION, &invalid[3..])].concat(),
            1007,
        ),
        (
            "a text that ends within a character",
            [frame(TEXT, b"\xce"), frame(FIN | CONTINUATION, b"")].concat(),
            1007,
        ),
        ("a message of 4097 bytes", frame(FIN | TEXT, &[b'x'; 4097]), 1009),
        ("a message of 300 kB", frame(FIN | BINARY, &vec![0; 300_000]), 1009),
        (
            "a message of 2^62 bytes",
            [head(FIN | BINARY, MASKED, 1 << 62), vec![1; 4]].concat(),
            1009,
        ),
        (
            "fragments of 6000 bytes",
            [frame(TEXT, &[b'x'; 3000]), frame(FIN | CONTINUATION, &[b'x'; 3000])].concat(),
            1009,
        ),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        cases.push(("a close code that must not be sent", close(code, b""), 1002));
    }
    cases
}

/// What a client may send, after which the socket lives on.
fn allowed() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let letters = "κόσμε".as_bytes();
    let each = |bytes: Vec<u8>| bytes.into_iter().map(|byte| vec![byte]).collect();
    vec![
        ("a text", vec![frame(FIN | TEXT, b"hi")]),
        ("an empty text", vec![frame(FIN | TEXT, b"")]),
        ("bytes", vec![frame(FIN | BINARY, &[0xff; 100])]),
        ("a text of 4096 bytes", vec![frame(FIN | TEXT, &[b'x'; 4096])]),
        ("a pong that nobody asked for", vec![frame(FIN | PONG, b"hi")]),
        ("a frame byte by byte", each(frame(FIN | TEXT, letters))),
        (
            "fragments that split a character",
            vec![
                frame(TEXT, &letters[..1]),
                frame(CONTINUATION, &letters[1..4]),
                frame(CONTINUATION, b""),
                frame(FIN | CONTINUATION, &letters[4..]),
            ],
        ),
        (
            "a pong between fragments",
            vec![frame(TEXT, b"a"), frame(FIN | PONG, b""), frame(FIN | CONTINUATION, b"b")],
        ),
    ]
}

/// Close frames that are answered with the same.
fn goodbyes() -> Vec<Vec<u8>> {
    let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let mut frames: Vec<_> = codes.iter().map(|code| close(*code, b"bye")).collect();
    frames.push(frame(FIN | CLOSE, b""));
    frames.push(close(1000, &[b'x'; 123]));
    frames
}

async fn every_case(combo: Combo) {
    let shop = Shop::on(combo).await;
    let user = shop.new_user();
    for (what, bytes, code) in violations() {
        let mut client = Client::connect(&user).await;
        client.send(&bytes).await;
        assert_eq!(client.end(what).await, Some(code), "{what}");
    }
    for (what, frames) in allowed() {
        let mut client = Client::connect(&user).await;
        for bytes in &frames {
            client.send(bytes).await;
        }
        client.answers_pings(what).await;
        client.send(&close(1000, b"")).await;
        assert_eq!(client.end(what).await, Some(1000), "{what}");
    }
    for goodbye in goodbyes() {
        // What comes after a Close frame is not looked at, be it the end or anything else.
        for after in [&b""[..], &frame(FIN | TEXT, b"\xff")] {
            let mut client = Client::connect(&user).await;
            client.send(&goodbye).await;
            client.send(after).await;
            let (first, payload) = client.next("its close frame").await.expect("an answer");
            assert_eq!(first, FIN | CLOSE);
            assert_eq!(frame(first, &payload), goodbye);
            assert_eq!(client.next("the end").await, None);
        }
    }

    // A client that has nothing more to send, with and without having said so.
    let mut client = Client::connect(&user).await;
    client.send(&close(1000, b"")).await;
    client.stream.shutdown().await.expect("half of a connection");
    assert_eq!(client.end("a close frame and half a connection").await, Some(1000));
    let mut client = Client::connect(&user).await;
    client.stream.shutdown().await.expect("half of a connection");
    assert_eq!(client.end("half a connection").await, None);
    shop.close().await;
}

struct Client {
    stream: TcpStream,
}

impl Client {
    /// A socket that has its snapshot.
    async fn connect(user: &User) -> Self {
        let address = user.door.url.trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.set_nodelay(true).expect("a connection");
        let request = format!(
            "GET /orders/stream HTTP/1.1\r\nHost: {address}\r\nX-User-Id: {}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            user.id
        );
        stream.write_all(request.as_bytes()).await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a response"));
        }
        let head = String::from_utf8(head).expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let mut client = Self { stream };
        let (first, payload) = client.next("a snapshot").await.expect("a snapshot");
        assert_eq!((first, &payload[..8]), (FIN | TEXT, &b"{\"type\":"[..]));
        client
    }

    /// Errors are no matter: the server may have closed already.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame's first byte and payload, or the end. A reset fails the test: it may cost the
    /// client what it has not read.
    async fn next(&mut self, what: &str) -> Option<(u8, Vec<u8>)> {
        let next = timeout(PATIENCE, async {
            let Ok(first) = self.stream.read_u8().await.map_err(|error| {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{what}: {error}");
            }) else {
                return None;
            };
            let length = self.stream.read_u8().await.expect("a length");
            let length = match length {
                126 => usize::from(self.stream.read_u16().await.expect("a length")),
                127 => panic!("a very long frame"),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.expect("a payload");
            Some((first, payload))
        });
        next.await.unwrap_or_else(|_| panic!("{what}: nothing happens"))
    }

    /// The code of the server's Close frame, after which the connection must end.
    async fn end(&mut self, what: &str) -> Option<u16> {
        let (first, payload) = self.next(what).await?;
        assert_eq!(first, FIN | CLOSE, "{what}");
        assert_eq!(self.next(what).await, None, "{what}: something after the Close frame");
        Some(u16::from_be_bytes([payload[0], payload[1]]))
    }

    async fn answers_pings(&mut self, what: &str) {
        for payload in [&b""[..], b"here?", &[0xfe; 125]] {
            self.send(&frame(FIN | PING, payload)).await;
            assert_eq!(self.next(what).await, Some((FIN | PONG, payload.to_vec())), "{what}");
        }
    }
}
